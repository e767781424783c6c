"""Masks of the image from low-resolution logits, in bands of rows; and logits from a mask.

Only requested masks are made at image size; `samedge.runtime.masks.resampling` computes rows of the image from rows of
logits.
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

# Pixels of float32 logits in memory at a time.
_BAND_PIXELS: Final = 1 << 18
_BAND_ROWS: Final = 1 << 9
# Logit of a drawn mask given as a prompt: SAM was trained on its own logits, which are about as large.
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
    """Yield the logits of one mask at image size, some rows at a time.

    Args:
        logits: float32 ``[h, w]`` from the decoder, covering the whole square input.
        geometry: Geometry of the image.
        window: Part of the image; by default all of it.

    Yields:
        The band's first row, counted from the top of the window, and the band: float32 ``[rows, columns]``, whose
        memory the next band may reuse.
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
    """Return for each mask a window outside which no logit at image size is above the level.

    A logit at image size is a mean of the logits that it taps, with non-negative weights that sum to 1: if it is above
    the level, so is one of those. So rows and columns that tap no row and no column with a logit above the level can be
    skipped. The level is lowered by the possible rounding error of such a mean.

    Args:
        logits: float32 ``[K, h, w]``.
        geometry: Geometry of the image.
        level: In logits.

    Returns:
        The windows; None for a mask without any such logit.
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
    """Return the number of image rows and columns per row and column of logits, float32 ``[side]`` each.

    0 for those outside the image. They allow estimating areas at image size from logits.

    Args:
        side: Rows and columns of the logits.
        geometry: Geometry of the image.
    """
    rows, columns = row_taps(side, geometry), column_taps(side, geometry)
    return rows.shares(side), columns.shares(side)


def _span(hit: BoolArray) -> slice:
    places = np.flatnonzero(hit)
    return slice(int(places[0]), int(places[-1]) + 1)


def mask_bands(logits: FloatArray, geometry: ImageGeometry, threshold: float) -> Iterator[tuple[int, BoolArray]]:
    """Yield one mask at image size, some rows at a time: True where the logit is greater than the threshold.

    Args:
        logits: float32 ``[h, w]``.
        geometry: Geometry of the image.
        threshold: The manifest's `mask_threshold`.

    Yields:
        The band's first row, and the band: bool ``[rows, W]``.
    """
    for top, band in upscale_bands(logits, geometry):
        yield top, band > threshold


def empty_masks(count: int, height: int, width: int) -> BoolArray:
    """Allocate masks, bool ``[count, height, width]``.

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
    """Write one mask into ``out``, bool ``[H, W]``; see `mask_bands` for the arguments."""
    for top, band in upscale_bands(logits, geometry):
        np.greater(band, threshold, out=out[top : top + len(band)])


def mask_box(logits: FloatArray, geometry: ImageGeometry, threshold: float) -> FloatArray:
    """Return the tight box of one mask without drawing the mask: float32 ``(x1, y1, x2, y2)``.

    As in Meta's ``batched_mask_to_box``: the first and last column and row of the mask, in px; zeros if the mask is
    empty. See `mask_bands` for the arguments.
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
    """Return a mask of the image as low-resolution logits, SAM's form of mask prompts.

    The mask is treated like the image (antialiased resize, top left of the square), is averaged down to ``side``, and
    its coverage from 0 to 1 becomes a logit from -10 to 10, as SAM 2 does with user-drawn masks. Outside the image it
    is -10.

    Args:
        mask: bool ``[H, W]``.
        geometry: Geometry of the image.
        side: Rows and columns of the decoder's ``mask_input``.
    """
    from PIL import Image

    square = np.zeros((geometry.image_size, geometry.image_size), np.uint8)
    square[: geometry.resized_height, : geometry.resized_width] = geometry.resize(mask.astype(np.uint8) * np.uint8(255))
    coverage = np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BOX), np.float32) / np.float32(
        255
    )
    return (np.float32(2) * coverage - np.float32(1)) * _PROMPT_LOGIT
