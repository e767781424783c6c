"""Asking fewer points: a sparse grid first, then points between, where it is not yet clear what they would find.

Most points of a dense grid find an object that others have found. A point is left out

- if the smallest mask over it was asked often enough: a mask that already holds many asked points has shown its best
  form, and the parts on it that are worth finding have been hit. The smallest, because objects within larger ones, or
  on them, would else be skipped with what surrounds them;
- if no mask is over it, and the points around it found nothing that nearly passes the thresholds. Only points that were
  asked count: where all around were left out, one is asked again, so that small objects in empty areas are still met.

Of the masks that resemble each other the best stays, and all points together would find a better one for some. So the
points around those of the masks that stay are asked as well, until none of them has a better mask.

What is found is a subset of what all points find, before duplicates are dropped. The numbers below were chosen on drawn
scenes for a recall of 0.95 at IoU 0.9 of the masks that all points find, at thresholds that drop what the model is
unsure of. Of the masks that it is unsure of, many are found by a single point, and those by asking that one alone.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from samedge.runtime.everything.candidates import Candidate, distinct_in_crop
from samedge.runtime.everything.sweep import Sweep
from samedge.runtime.masks.rle import rle_area, rle_holds
from samedge.types import BoolArray

ENOUGH_ASKED: Final = 32
"""A mask that holds so many asked points is not asked further."""
HOPELESS: Final = 0.12
"""Points around that on average miss the thresholds by more than this promise nothing."""
CLIMBS: Final = 4
"""How often the points around the best ones are asked: a mask is rarely more steps from the best of its kind."""

_STRIDES: Final = (8, 4, 2, 1)
_COARSEST_SIDE: Final = 4


def ask_coarse_to_fine(sweep: Sweep) -> list[Candidate]:
    """Return the masks of the points that had to be asked, in the order of the points.

    Raises:
        CancelledError: The caller wants no more.
    """
    shares = sweep.points / np.array([sweep.crop.width, sweep.crop.height])
    found: list[Candidate] = []
    settled, finest = 0, 0.0
    for rows, reach in grid_levels(shares):
        wanted = rows[~_skipped(sweep, found, shares, rows, reach)]
        settled += len(rows) - len(wanted)
        found.extend(sweep.ask_in_turn(wanted, settled))
        settled += len(wanted)
        finest = reach
        if not sweep.tally.complete:
            break
    for _ in range(CLIMBS):
        wanted = _around_the_best(sweep, found, shares, finest)
        if not len(wanted) or not sweep.tally.complete:
            break
        found.extend(sweep.ask_in_turn(wanted, len(shares)))
    # Equal scores are kept in this order, as where all points are asked.
    return sorted(found, key=lambda candidate: candidate.asked)


def grid_levels(shares: NDArray[np.float64]) -> list[tuple[NDArray[np.intp], float]]:
    """Return the points level by level, the coarsest first; each point is in one level.

    Args:
        shares: float64 ``[N, 2]``: (x, y) from 0 to 1. Points that form no grid are sorted into the cells of one.

    Returns:
        For each level that has points: which they are, int ``[K]``; and how far from a point of this level those of the
        levels before it are its neighbours, as a share.
    """
    side = int(np.ceil(np.sqrt(len(shares))))
    cells = np.minimum((shares * side).astype(np.intp), side - 1)
    strides = [stride for stride in _STRIDES if side >= stride * _COARSEST_SIDE] or [1]
    # Points in the middle of the coarsest cells, and then those between.
    offset = strides[0] // 2
    left = np.ones(len(shares), np.bool_)
    levels: list[tuple[NDArray[np.intp], float]] = []
    for stride in strides:
        on_level = left & (cells % stride == offset % stride).all(axis=1)
        left &= ~on_level
        if on_level.any():
            levels.append((np.flatnonzero(on_level), 1.01 * stride / side))
    return levels


def _skipped(
    sweep: Sweep, found: list[Candidate], shares: NDArray[np.float64], rows: NDArray[np.intp], reach: float
) -> BoolArray:
    """Return which of the points need not be asked: bool ``[K]``."""
    asked = np.flatnonzero(~np.isnan(sweep.margins))
    skipped = np.zeros(len(rows), np.bool_)
    if not len(asked):
        return skipped
    covered, enough = _coverage(sweep, found, asked)
    margins = sweep.margins[asked]
    for at, row in enumerate(rows):
        if covered[row]:
            skipped[at] = enough[row]
            continue
        near = margins[(np.abs(shares[asked] - shares[row]) <= reach).all(axis=1)]
        skipped[at] = len(near) > 0 and float(near.mean()) < -HOPELESS
    return skipped


def _around_the_best(
    sweep: Sweep, found: list[Candidate], shares: NDArray[np.float64], reach: float
) -> NDArray[np.intp]:
    """Return the points that were not asked and are neighbours of those of the masks that would stay: int ``[K]``."""
    left = np.flatnonzero(np.isnan(sweep.margins))
    near = np.zeros(len(left), np.bool_)
    for mask in _distinct(sweep, found):
        near |= (np.abs(shares[left] - shares[mask.asked]) <= reach).all(axis=1)
    return left[near]


def _distinct(sweep: Sweep, found: list[Candidate]) -> list[Candidate]:
    return distinct_in_crop(found, sweep.parameters.box_nms_thresh)


def _coverage(sweep: Sweep, found: list[Candidate], asked: NDArray[np.intp]) -> tuple[BoolArray, BoolArray]:
    """Return over which points a mask is, and where the smallest of them was asked often enough: bool ``[N]`` each."""
    covered = np.zeros(len(sweep.points), np.bool_)
    enough = np.zeros(len(sweep.points), np.bool_)
    pixels = sweep.points.astype(np.intp) + np.array([sweep.crop.left, sweep.crop.top])
    pixels = np.minimum(pixels, np.array(sweep.image_shape[::-1]) - 1)
    for mask in sorted(_distinct(sweep, found), key=lambda candidate: -rle_area(candidate.rle)):
        inside = rle_holds(mask.rle, pixels)
        covered |= inside
        enough[inside] = np.count_nonzero(inside[asked]) >= ENOUGH_ASKED
    return covered, enough
