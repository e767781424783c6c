"""Rows and columns of an image as mixtures of those of low-resolution logits, with products that one thread computes.

Meta's ``postprocess_masks`` is three linear steps (bilinear to the square input, crop, bilinear to the image), each of
which treats rows and columns alike and apart. Here their product is applied at once: a row of the image is a mixture of
at most four rows of logits. A block of rows taps few rows of logits, so that a block is a small matrix product. Two
calls of ``cv2.resize`` are no substitute: OpenCV does not round the scales as torch does, pixels near the threshold
differ, and the whole image would be held in float32. Knows sizes and numbers, and nothing of masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samedge.runtime.image.geometry import ImageGeometry
from samedge.types import FloatArray

ONE_THREAD: Final = 1 << 18
"""Multiplications in a matrix product up to which numpy's BLAS (OpenBLAS) leaves it to the thread that asks. Above, it
wakes others, however few threads the caller wants: the one that asked waits until they get a core, and they go on
spinning for a tenth of a second on a core that the graphs should have."""

_MOST_ROWS: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """Along one axis, the sources of each target: indices ``[n, 4]`` (repeats allowed) and weights ``[n, 4]``.

    Attributes:
        index: int.
        weight: float32, of each source; those of a target sum up to 1.
    """

    index: NDArray[np.intp]
    weight: FloatArray

    def within(self, targets: slice) -> Taps:
        """Some of the targets."""
        return Taps(self.index[targets], self.weight[targets])

    def shares(self, sources: int) -> FloatArray:
        """How much of all targets comes from each source: float32 ``[sources]``."""
        return np.bincount(self.index.ravel(), self.weight.ravel(), sources).astype(np.float32)

    def stretch(self, rows: FloatArray) -> FloatArray:
        """Apply the taps to the columns of some rows: float32 ``[n, w]`` to ``[n, W]``."""
        stretched = rows[:, self.index[:, 0]] * self.weight[:, 0]
        for tap in range(1, 4):
            stretched += rows[:, self.index[:, tap]] * self.weight[:, tap]
        return stretched


@dataclass(frozen=True, slots=True, eq=False)
class RowBlock:
    """Some rows of an image as mixtures of rows of logits: ``matrix @ logits[sources]``.

    Attributes:
        targets: Rows of the image.
        sources: Rows of logits: all that these rows tap.
        matrix: float32 ``[targets, sources]``.
    """

    targets: slice
    sources: slice
    matrix: FloatArray


def row_taps(low: int, geometry: ImageGeometry) -> Taps:
    """Return the taps of the rows of an image among ``low`` rows of logits, which cover the whole square input."""
    return _taps(low, geometry.image_size, geometry.resized_height, geometry.height)


def column_taps(low: int, geometry: ImageGeometry) -> Taps:
    """Return the taps of the columns of an image among ``low`` columns of logits."""
    return _taps(low, geometry.image_size, geometry.resized_width, geometry.width)


@lru_cache(maxsize=8)  # every mask of an image has the same
def row_blocks(low: int, geometry: ImageGeometry) -> tuple[RowBlock, ...]:
    """Return all rows of an image in blocks of one size (but the last), so small that one thread computes each.

    Args:
        low: Rows of the logits.
        geometry: Of the image.
    """
    taps = row_taps(low, geometry)
    size = _MOST_ROWS
    while size > 1 and size * _most_sources(taps, size) * geometry.width > ONE_THREAD:
        size //= 2
    tops = range(0, geometry.height, size)
    return tuple(_row_block(taps, slice(top, min(top + size, geometry.height))) for top in tops)


def mix_rows(logits: FloatArray, geometry: ImageGeometry, rows: slice, columns: Taps, out: FloatArray) -> FloatArray:
    """Write logits at the size of the image: of some rows, at some columns.

    Args:
        logits: float32 ``[h, w]``.
        geometry: Of the image.
        rows: Of the image, at least one, without a step.
        columns: Taps of those columns.
        out: float32 ``[rows, columns]``.

    Returns:
        ``out``.
    """
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
    """Return how many rows of logits a block of so many rows taps at most."""
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
    index = np.stack(
        [inner_low[outer_low], inner_high[outer_low], inner_low[outer_high], inner_high[outer_high]], axis=1
    )
    near, far = np.float32(1) - outer, outer
    weight = np.stack(
        [
            near * (np.float32(1) - inner[outer_low]),
            near * inner[outer_low],
            far * (np.float32(1) - inner[outer_high]),
            far * inner[outer_high],
        ],
        axis=1,
    )
    return Taps(index, weight)


def _bilinear(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """For each target, the two sources and the weight of the second.

    torch's ``interpolate(mode="bilinear", align_corners=False)``: half-pixel centres, clamped at 0. Rounded where torch
    rounds (the scale to float32, then one fused multiply-subtract), or weights would differ by 1e-4 at the far end.
    """
    scale = np.float32(source) / np.float32(target)
    at = (np.float64(scale) * (np.arange(target) + 0.5) - 0.5).astype(np.float32)
    at = np.maximum(at, np.float32(0))
    low = np.minimum(at.astype(np.intp), source - 1)
    high = np.minimum(low + 1, source - 1)
    return low, high, np.clip(at - low.astype(np.float32), np.float32(0), np.float32(1))
