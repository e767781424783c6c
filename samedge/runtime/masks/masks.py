"""Masks of the image from low-resolution logits, in bands of rows.

Meta's ``postprocess_masks`` is three linear steps (bilinear to the square input, crop, bilinear to the image), each
separable into rows and columns. Here their product is applied at once: a row of the image is a mixture of at most four
rows of logits, and a block of rows a small matrix product, computed by one thread. Only requested masks are made at
image size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samedge.errors import UsageError
from samedge.runtime.image.geometry import ImageGeometry
from samedge.types import BoolArray, FloatArray

ONE_THREAD: Final = 1 << 18
"""Multiplications in a matrix product up to which numpy's BLAS (OpenBLAS) stays on the calling thread. Above, it wakes
others, however few threads the caller wants: the calling one waits until they get a core, and they keep spinning for a
tenth of a second on a core that the graphs should have."""

_MOST_ROWS: Final = 64
# Pixels of float32 logits in memory at a time.
_BAND_PIXELS: Final = 1 << 18
_BAND_ROWS: Final = 1 << 9


@dataclass(frozen=True, slots=True)
class Window:
    """A part of an image; slices without a step."""

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

    `logits` are the decoder's, float32 ``[h, w]``, for the whole square input. Yields the band's first row, counted
    from the top of the window, and the band: float32 ``[rows, columns]``, in memory that the next band may reuse.
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
    """Return for each mask ``[K, h, w]`` a window outside which no logit at image size is above the level, or None.

    A logit at image size is a mean of the logits that it taps, with non-negative weights that sum to 1: if it is above
    the level, so is one of those. Rows and columns that tap none can be skipped. The level is lowered by the possible
    rounding error of such a mean.
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

    0 for those outside the image. They serve to estimate areas at image size from logits.
    """
    rows, columns = row_taps(side, geometry), column_taps(side, geometry)
    return rows.shares(side), columns.shares(side)


def _span(hit: BoolArray) -> slice:
    places = np.flatnonzero(hit)
    return slice(int(places[0]), int(places[-1]) + 1)


def mask_bands(logits: FloatArray, geometry: ImageGeometry, threshold: float) -> Iterator[tuple[int, BoolArray]]:
    """Yield one mask at image size, some rows at a time: the band's first row, and the band, bool ``[rows, W]``.

    A pixel is True if its logit is greater than the threshold, which is the manifest's `mask_threshold`.
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
    """Write one mask, as of `mask_bands`, into ``out``, bool ``[H, W]``."""
    for top, band in upscale_bands(logits, geometry):
        np.greater(band, threshold, out=out[top : top + len(band)])


def mask_box(logits: FloatArray, geometry: ImageGeometry, threshold: float) -> FloatArray:
    """Return the tight box of one mask without drawing the mask: float32 ``(x1, y1, x2, y2)``.

    As in Meta's ``batched_mask_to_box``: the first and last column and row of the mask, in px; zeros if it is empty.
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


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """Along one axis, the sources of each target: indices ``[n, 4]``, possibly repeated, and weights that sum to 1."""

    index: NDArray[np.intp]
    weight: FloatArray

    def within(self, targets: slice) -> Taps:
        """Return the taps of some of the targets."""
        return Taps(self.index[targets], self.weight[targets])

    def shares(self, sources: int) -> FloatArray:
        """Return the total weight of each source: float32 ``[sources]``."""
        return np.bincount(self.index.ravel(), self.weight.ravel(), sources).astype(np.float32)

    def stretch(self, rows: FloatArray) -> FloatArray:
        """Apply the taps to the columns of some rows: float32 ``[n, w]`` to ``[n, W]``."""
        stretched = rows[:, self.index[:, 0]] * self.weight[:, 0]
        for tap in range(1, 4):
            stretched += rows[:, self.index[:, tap]] * self.weight[:, tap]
        return stretched


@dataclass(frozen=True, slots=True, eq=False)
class RowBlock:
    """Some rows of an image as mixtures of the rows of logits that they tap: ``matrix @ logits[sources]``."""

    targets: slice
    sources: slice
    matrix: FloatArray


def row_taps(low: int, geometry: ImageGeometry) -> Taps:
    """Return the taps of the rows of an image among ``low`` rows of logits, which cover the whole square input."""
    return _taps(low, geometry.image_size, geometry.resized_height, geometry.height)


def column_taps(low: int, geometry: ImageGeometry) -> Taps:
    """Return the taps of the columns of an image among ``low`` columns of logits."""
    return _taps(low, geometry.image_size, geometry.resized_width, geometry.width)


@lru_cache(maxsize=8)  # equal for every mask of an image
def row_blocks(low: int, geometry: ImageGeometry) -> tuple[RowBlock, ...]:
    """Return all rows of an image in blocks of one size (except the last), small enough for a single thread."""
    taps = row_taps(low, geometry)
    size = _MOST_ROWS
    while size > 1 and size * _most_sources(taps, size) * geometry.width > ONE_THREAD:
        size //= 2
    tops = range(0, geometry.height, size)
    return tuple(_row_block(taps, slice(top, min(top + size, geometry.height))) for top in tops)


def mix_rows(logits: FloatArray, geometry: ImageGeometry, rows: slice, columns: Taps, out: FloatArray) -> FloatArray:
    """Write the logits of one or more rows of the image at some columns into ``out``, and return it."""
    blocks = row_blocks(logits.shape[0], geometry)
    size = blocks[0].targets.stop
    blocks = blocks[rows.start // size : -(-rows.stop // size)]
    first = blocks[0].sources.start
    stretched = columns.stretch(logits[first : blocks[-1].sources.stop])
    for block in blocks:
        begin, end = max(block.targets.start, rows.start), min(block.targets.stop, rows.stop)
        matrix = block.matrix[begin - block.targets.start : end - block.targets.start]
        sources = stretched[block.sources.start - first : block.sources.stop - first]
        np.matmul(matrix, sources, out=out[begin - rows.start : end - rows.start])
    return out


def _most_sources(taps: Taps, size: int) -> int:
    """Return the most rows of logits tapped by a block of this many rows."""
    tops = np.arange(0, len(taps.index), size)
    lowest = np.minimum.reduceat(taps.index.min(axis=1), tops)
    highest = np.maximum.reduceat(taps.index.max(axis=1), tops)
    return int((highest - lowest).max()) + 1


def _row_block(taps: Taps, targets: slice) -> RowBlock:
    own = taps.within(targets)
    first, last = int(own.index.min()), int(own.index.max())
    matrix = np.zeros((len(own.index), last + 1 - first), np.float32)
    for tap in range(4):
        matrix[np.arange(len(matrix)), own.index[:, tap] - first] += own.weight[:, tap]
    return RowBlock(targets, slice(first, last + 1), matrix)


@lru_cache(maxsize=8)
def _taps(low: int, square: int, cropped: int, original: int) -> Taps:
    """Compose low -> square (bilinear), the crop, and cropped -> original (bilinear) along one axis."""
    inner_low, inner_high, inner = _bilinear(low, square)
    outer_low, outer_high, outer = _bilinear(cropped, original)
    one = np.float32(1)
    index = [inner_low[outer_low], inner_high[outer_low], inner_low[outer_high], inner_high[outer_high]]
    low_weight, high_weight = (np.stack([one - inner[at], inner[at]], axis=1) for at in (outer_low, outer_high))
    weight = [(one - outer)[:, None] * low_weight, outer[:, None] * high_weight]
    return Taps(np.stack(index, axis=1), np.concatenate(weight, axis=1))


def _bilinear(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """Return the two sources of each target, and the weight of the second.

    torch's ``interpolate(mode="bilinear", align_corners=False)``: half-pixel centres, clamped at 0. Rounded where torch
    rounds (the scale to float32, then one fused multiply-subtract), otherwise weights would differ by 1e-4 at the far
    end.
    """
    scale = np.float32(source) / np.float32(target)
    at = (np.float64(scale) * (np.arange(target) + 0.5) - 0.5).astype(np.float32)
    at = np.maximum(at, np.float32(0))
    low = np.minimum(at.astype(np.intp), source - 1)
    high = np.minimum(low + 1, source - 1)
    return low, high, np.clip(at - low.astype(np.float32), np.float32(0), np.float32(1))
