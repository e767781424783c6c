"""Stability of masks, estimated from low-resolution logits where certain enough, and otherwise from the drawn mask.

Stability is Meta's ``calculate_stability_score``: the area above a higher threshold as a share of the area above a
lower one. At low resolution the two areas are sums over the logits, each weighted by its area of the image. Cells along
the outline make that inexact, so only masks clearly below the threshold are dropped by it; all others are drawn and
measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.masks.masks import Window, low_res_shares, upscale_bands, windows_above
from samedge.types import BoolArray, FloatArray

CLEAR: Final = 0.04
"""An estimate below the threshold by more than this is a clear reject, if the mask is large enough."""
CLEAR_FROM_CELLS: Final = 400
"""Estimates of masks of fewer low-resolution cells are too rough. Their windows are small, so drawing them is cheap."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The threshold of a mask, in logits, and those around it that measure its stability."""

    mask: float
    higher: float
    lower: float

    @classmethod
    def around(cls, threshold: float, offset: float) -> Levels:
        """Return the thresholds at this offset around the mask's."""
        return cls(threshold, threshold + offset, threshold - offset)

    @property
    def least(self) -> float:
        """The lowest of the three: an offset may be negative."""
        return min(self.mask, self.higher, self.lower)


@dataclass(frozen=True, slots=True)
class DrawnMask:
    """A mask at the size of the image.

    Attributes:
        inside: bool ``[h, w]``, the window's part of the mask, which is empty outside the window.
        window: The window.
        box: float32 ``(x1, y1, x2, y2)``: first and last column and row, px; zeros if the mask is empty.
        stability: NaN if nothing is above the lower threshold.
    """

    inside: BoolArray
    window: Window
    box: FloatArray
    stability: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Stability estimated from low-resolution logits, float32 ``[K]``; NaN if nothing is above the lower threshold.

    `rough`, bool ``[K]``, marks masks too small for an estimate.
    """

    stability: FloatArray
    rough: BoolArray

    def too_low(self, least: float) -> BoolArray:
        """Return a mask of those certainly below the required stability: bool ``[K]``."""
        return np.logical_and(self.stability < least - CLEAR, ~self.rough)

    def near(self, least: float) -> BoolArray:
        """Return a mask of those too close to the required stability to decide: bool ``[K]``."""
        clear: BoolArray = np.abs(self.stability - np.float32(least)) > CLEAR
        return np.logical_or(~clear, self.rough)


def estimate_stability(logits: FloatArray, geometry: ImageGeometry, levels: Levels) -> Estimate:
    """Estimate the stability of masks from low-resolution logits ``[K, h, w]``."""
    rows, columns = low_res_shares(logits.shape[1], geometry)
    cell = rows.max() * columns.max()  # in pixels of the image
    inner = _weighted(logits > np.float32(levels.higher), rows, columns)
    outer = _weighted(logits > np.float32(levels.lower), rows, columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Estimate(inner / outer, outer < CLEAR_FROM_CELLS * cell)


def _weighted(inside: BoolArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Return the areas of masks ``[K, h, w]`` with weighted rows and columns: float32 ``[K]``."""
    # Not a matrix product, for which numpy's BLAS would start threads: see `masks.ONE_THREAD`.
    by_row = np.einsum("khw,w->kh", inside, columns)
    area: FloatArray = np.einsum("kh,h->k", by_row, rows)
    return area


def draw_inside(logits: FloatArray, geometry: ImageGeometry, levels: Levels, window: Window | None) -> DrawnMask:
    """Draw one mask ``[h, w]`` inside its window, which is for the lowest of the levels, and measure its stability."""
    if window is None:
        return DrawnMask(np.zeros((0, 0), np.bool_), Window(slice(0, 0), slice(0, 0)), np.zeros(4, np.float32), np.nan)
    inside = np.empty(window.shape, np.bool_)
    inner, outer = 0, 0
    for top, band in upscale_bands(logits, geometry, window):
        inner += int(np.count_nonzero(band > levels.higher))
        outer += int(np.count_nonzero(band > levels.lower))
        np.greater(band, levels.mask, out=inside[top : top + len(band)])
    ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = np.zeros(4, np.float32)
    if len(ys):
        left, top = window.columns.start, window.rows.start
        box[:] = left + xs[0], top + ys[0], left + xs[-1], top + ys[-1]
    stability = float(np.float32(inner) / np.float32(outer)) if outer else (np.inf if inner else np.nan)
    return DrawnMask(inside, window, box, stability)


def draw_all(logits: FloatArray, geometry: ImageGeometry, levels: Levels) -> list[DrawnMask]:
    """Draw masks from logits ``[K, h, w]``, each inside its window."""
    windows = windows_above(logits, geometry, levels.least)
    return [draw_inside(one, geometry, levels, window) for one, window in zip(logits, windows, strict=True)]
