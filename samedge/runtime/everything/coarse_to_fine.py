"""Coarse-to-fine point prompting: a sparse grid first, then points between where their result is still unclear.

Most points of a dense grid find an object that others have found. A point is skipped

- if enough prompted points lie inside the smallest mask over it: such a mask has reached its best form, and its parts
  worth finding have been hit. The smallest, because objects inside or on top of larger ones would otherwise be skipped
  along with them;
- if no mask covers it, and the points around it found nothing that nearly passes the thresholds. Only prompted points
  count: where all neighbours were skipped, one is prompted again, so that small objects in empty areas are still found.

Of masks that resemble each other the best is kept, and the full grid would find a better one for some. So the
neighbours of the kept masks' points are prompted too, until none of them gives a better mask.

The result is a subset of that of the full grid, before duplicates are dropped. The constants below were chosen on drawn
scenes for a recall of 0.95 at IoU 0.9 of the full grid's masks, at thresholds that drop uncertain masks. Many of the
uncertain masks are found by a single point only.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from samedge.runtime.everything.candidates import Candidate, distinct_in_crop
from samedge.runtime.everything.sweep import Sweep
from samedge.runtime.masks.rle import rle_area, rle_holds
from samedge.types import BoolArray

ENOUGH_PROMPTED: Final = 32
"""A mask that contains this many prompted points is not prompted further."""
HOPELESS: Final = 0.12
"""Neighbours that miss the thresholds by more than this on average rule a point out."""
CLIMBS: Final = 4
"""Rounds of prompting around the best points: a mask is rarely more steps from the best of its kind."""

_STRIDES: Final = (8, 4, 2, 1)
_COARSEST_SIDE: Final = 4


def prompt_coarse_to_fine(sweep: Sweep) -> list[Candidate]:
    """Return the masks of the points that had to be prompted, in the order of the points."""
    shares = sweep.points / np.array([sweep.crop.width, sweep.crop.height])
    found: list[Candidate] = []
    settled, finest = 0, 0.0
    for rows, reach in grid_levels(shares):
        wanted = rows[~_skipped(sweep, found, shares, rows, reach)]
        settled += len(rows) - len(wanted)
        found.extend(sweep.prompt_in_turn(wanted, settled))
        settled += len(wanted)
        finest = reach
        if not sweep.tally.complete:
            break
    for _ in range(CLIMBS):
        wanted = _around_the_best(sweep, found, shares, finest)
        if not len(wanted) or not sweep.tally.complete:
            break
        found.extend(sweep.prompt_in_turn(wanted, len(shares)))
    # Equal scores are kept in this order, as with the full grid.
    return sorted(found, key=lambda candidate: candidate.grid_index)


def grid_levels(shares: NDArray[np.float64]) -> list[tuple[NDArray[np.intp], float]]:
    """Return for each level, the coarsest first, the indices of its points, and the distance to its neighbours.

    Points are float64 ``[N, 2]``, (x, y) from 0 to 1; those that form no grid are sorted into the cells of one. Points
    of earlier levels within the distance, a share as well, are neighbours. Empty levels are left out.
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
    """Return a mask of the points to skip: bool ``[K]``."""
    prompted = np.flatnonzero(~np.isnan(sweep.margins))
    skipped = np.zeros(len(rows), np.bool_)
    if not len(prompted):
        return skipped
    covered, enough = _coverage(sweep, found, prompted)
    margins = sweep.margins[prompted]
    for at, row in enumerate(rows):
        if covered[row]:
            skipped[at] = enough[row]
            continue
        near = margins[(np.abs(shares[prompted] - shares[row]) <= reach).all(axis=1)]
        skipped[at] = len(near) > 0 and float(near.mean()) < -HOPELESS
    return skipped


def _around_the_best(
    sweep: Sweep, found: list[Candidate], shares: NDArray[np.float64], reach: float
) -> NDArray[np.intp]:
    """Return the unprompted neighbours of the points of the masks that would be kept: int ``[K]``."""
    left = np.flatnonzero(np.isnan(sweep.margins))
    near = np.zeros(len(left), np.bool_)
    for mask in _distinct(sweep, found):
        near |= (np.abs(shares[left] - shares[mask.grid_index]) <= reach).all(axis=1)
    return left[near]


def _distinct(sweep: Sweep, found: list[Candidate]) -> list[Candidate]:
    return distinct_in_crop(found, sweep.parameters.box_nms_thresh)


def _coverage(sweep: Sweep, found: list[Candidate], prompted: NDArray[np.intp]) -> tuple[BoolArray, BoolArray]:
    """Return the points covered by a mask, and those whose smallest mask is settled: bool ``[N]`` each."""
    covered = np.zeros(len(sweep.points), np.bool_)
    enough = np.zeros(len(sweep.points), np.bool_)
    pixels = sweep.points.astype(np.intp) + np.array([sweep.crop.left, sweep.crop.top])
    pixels = np.minimum(pixels, np.array(sweep.scene.shape[::-1]) - 1)
    for mask in sorted(_distinct(sweep, found), key=lambda candidate: -rle_area(candidate.rle)):
        inside = rle_holds(mask.rle, pixels)
        covered |= inside
        enough[inside] = np.count_nonzero(inside[prompted]) >= ENOUGH_PROMPTED
    return covered, enough
