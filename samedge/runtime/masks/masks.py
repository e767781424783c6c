"""From low-resolution mask logits to masks of the image, in bands of rows; and from a mask back to logits.

Nothing of the size of the image is made but the masks that were asked for; how a row of the image comes from rows of
logits is in `samedge.runtime.masks.resampling`. Knows nothing of engines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from samedge.errors import UsageError
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.masks.resampling import column_taps, mix_rows, row_taps
from samedge.types import BoolArray, FloatArray

# Logits of so many pixels are at hand at a time, in float32.
_BAND_PIXELS: Final = 1 << 18
_BAND_ROWS: Final = 1 << 9
# What a drawn mask becomes when it is given as a prompt: SAM was trained on its own logits, which are about as large.
_PROMPT_LOGIT: Final = np.float32(10)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of an image.

    Attributes:
        rows: Without a step.
        columns: Without a step.
    """

    rows: slice
    columns: slice

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in px."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def upscale_bands(
    logits: FloatArray, geometry: ImageGeometry, window: Window | None = None
) -> Iterator[tuple[int, FloatArray]]:
    """Yield the logits of one mask at the size of the image, some rows at a time.

    Args:
        logits: float32 ``[h, w]`` as the decoder gives them; they cover the whole square input.
        geometry: Of the image.
        window: The part of the image to go over; all of it if left out.

    Yields:
        The number of the band's first row, from the top of the window, and the band: float32 ``[rows, columns]``. The
        next band may reuse its memory.
    """
    window = window or Window(slice(0, geometry.height), slice(0, geometry.width))
    columns = column_taps(logits.shape[1], geometry).within(window.columns)
    height, width = window.shape
    step = max(1, min(height, _BAND_ROWS, _BAND_PIXELS // width))
    band = np.empty((step, width), np.float32)
    for top in range(0, height, step):
        rows = slice(window.rows.start + top, min(window.rows.start + top + step, window.rows.stop))
        yield top, mix_rows(logits, geometry, rows, columns, band[: rows.stop - rows.start])


def windows_above(logits: FloatArray, geometry: ImageGeometry, level: float) -> list[Window | None]:
    """Return for each mask a window outside of which no logit is above the level at the size of the image.

    A logit at the size of the image is a mean of the logits that it taps, with weights that are not negative and sum up
    to 1: where it is above the level, one of those is. So rows and columns that tap no row and no column with a logit
    above the level can be left out. The level is lowered by what the rounding of such a mean can amount to.

    Args:
        logits: float32 ``[K, h, w]``.
        geometry: Of the image.
        level: In logits.

    Returns:
        None for a mask without any such logit.
    """
    rows, columns = row_taps(logits.shape[1], geometry), column_taps(logits.shape[2], geometry)
    low = logits[:, : int(rows.index.max()) + 1, : int(columns.index.max()) + 1]
    largest = np.abs(low).max(axis=(1, 2), keepdims=True)
    above = low > np.float32(level) - np.float32(1e-5) * (largest + np.float32(abs(level)))
    in_rows = above.any(axis=2)[:, rows.index].any(axis=2)
    in_columns = above.any(axis=1)[:, columns.index].any(axis=2)
    return [
        Window(_span(ys), _span(xs)) if ys.any() and xs.any() else None
        for ys, xs in zip(in_rows, in_columns, strict=True)
    ]


def low_res_shares(side: int, geometry: ImageGeometry) -> tuple[FloatArray, FloatArray]:
    """Return for how many rows and columns of the image each row and column of logits counts, float32 ``[side]`` each.

    0 for those that lie beside the image. With them, an area at the size of the image can be told from logits.

    Args:
        side: Rows and columns of the logits.
        geometry: Of the image.
    """
    rows, columns = row_taps(side, geometry), column_taps(side, geometry)
    return rows.shares(side), columns.shares(side)


def _span(hit: BoolArray) -> slice:
    places = np.flatnonzero(hit)
    return slice(int(places[0]), int(places[-1]) + 1)


def mask_bands(logits: FloatArray, geometry: ImageGeometry, threshold: float) -> Iterator[tuple[int, BoolArray]]:
    """Yield one mask at the size of the image, some rows at a time: where the logit is greater than the threshold.

    Args:
        logits: float32 ``[h, w]``.
        geometry: Of the image.
        threshold: The manifest's `mask_threshold`.

    Yields:
        The number of the band's first row, and the band: bool ``[rows, W]``.
    """
    for top, band in upscale_bands(logits, geometry):
        yield top, band > threshold


def empty_masks(count: int, height: int, width: int) -> BoolArray:
    """Return room for masks, bool ``[count, height, width]``.

    Raises:
        UsageError: There is not enough memory for all of them at once.
    """
    try:
        return np.empty((count, height, width), np.bool_)
    except MemoryError as error:
        raise UsageError(
            f"{count} masks of {width} x {height} px need {count * height * width / 1e9:.1f} GB",
            cure="Use iter_masks(), which holds one at a time",
        ) from error


def draw_mask(logits: FloatArray, geometry: ImageGeometry, threshold: float, out: BoolArray) -> None:
    """Write one mask into ``out``, bool ``[H, W]``; for the arguments see `mask_bands`."""
    for top, band in upscale_bands(logits, geometry):
        np.greater(band, threshold, out=out[top : top + len(band)])


def mask_box(logits: FloatArray, geometry: ImageGeometry, threshold: float) -> FloatArray:
    """Return the tight box of one mask without drawing the mask: float32 ``(x1, y1, x2, y2)``.

    As in Meta's ``batched_mask_to_box``: the first and the last column and row that belong to the mask, in px; zeros
    where the mask is empty. For the arguments see `mask_bands`.
    """
    columns = np.zeros(geometry.width, np.bool_)
    top_row, bottom_row = -1, -1
    for top, band in mask_bands(logits, geometry, threshold):
        rows = np.flatnonzero(band.any(axis=1))
        if len(rows):
            columns |= band.any(axis=0)
            top_row = top + int(rows[0]) if top_row < 0 else top_row
            bottom_row = top + int(rows[-1])
    if top_row < 0:
        return np.zeros(4, np.float32)
    inside = np.flatnonzero(columns)
    return np.array([inside[0], top_row, inside[-1], bottom_row], np.float32)


def mask_to_logits(mask: BoolArray, geometry: ImageGeometry, side: int) -> FloatArray:
    """Return a mask of the image as low-resolution logits, the form in which SAM takes masks as prompts.

    The mask goes the way of the image (antialiased resize, top left of the square), is averaged down to ``side``, and
    its coverage from 0 to 1 becomes a logit from -10 to 10, as SAM 2 does with masks that users draw. Outside the image
    it is -10.

    Args:
        mask: bool ``[H, W]``.
        geometry: Of the image.
        side: Rows and columns of the decoder's ``mask_input``.
    """
    from PIL import Image

    square = np.zeros((geometry.image_size, geometry.image_size), np.uint8)
    square[: geometry.resized_height, : geometry.resized_width] = geometry.resize(mask.astype(np.uint8) * np.uint8(255))
    coverage = np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BOX), np.float32) / np.float32(
        255
    )
    return (np.float32(2) * coverage - np.float32(1)) * _PROMPT_LOGIT
