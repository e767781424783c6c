"""Several outlines as one closed polygon: bridges without area lead from part to part, and into holes.

A bridge is walked there and back, so that filling by the even-odd rule or by winding gives the same as filling the
outlines apart. Knows numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from samedge.types import FloatArray

# Distances between so many pairs of points are at hand at a time, in float32.
_PAIRS: Final = 1 << 20


def join_parts(outlines: Sequence[FloatArray]) -> FloatArray:
    """Returns one closed outline through all parts, float32 ``[K, 2]``.

    The parts make a chain from top to bottom. Each is entered at the point nearest to the part before, left at the
    point nearest to the next, and finished on the way back: time and memory are those of the points, however many
    parts there are.

    Args:
        outlines: float32 ``[K, 2]`` each: (x, y) in px; one or more.
    """
    chain = sorted(outlines, key=lambda outline: (float(outline[:, 1].min()), float(outline[:, 0].min())))
    forth: list[FloatArray] = []
    back: list[FloatArray] = []
    entry = 0
    for part, following in pairwise(chain):
        leave, next_entry = _nearest(part, following)
        around = np.roll(part, -entry, axis=0)
        way = (leave - entry) % len(part)
        forth.append(around[: way + 1])
        # The way back starts where the bridge starts, and ends where this part was entered.
        back.append(np.concatenate([around[way:], around[:1]]))
        entry = next_entry
    last = np.roll(chain[-1], -entry, axis=0)
    closed = np.concatenate([*forth, last, last[:1], *reversed(back)])
    return closed[:-1]  # the first point again


def cut_holes(outline: FloatArray, holes: Sequence[FloatArray]) -> FloatArray:
    """Returns a closed outline that goes round each hole as well, float32 ``[K, 2]``.

    Filled by the even-odd rule, as OpenCV and Pillow do, it leaves the holes out, but for the line of each bridge where
    that is drawn.

    Args:
        outline: float32 ``[K, 2]``: (x, y) in px.
        holes: Outlines of holes inside of it; none may lie in another.
    """
    cut = outline
    for hole in sorted(holes, key=lambda hole: (float(hole[:, 0].min()), float(hole[:, 1].min()))):
        leave, entry = _nearest(cut, hole)
        around = np.roll(hole, -entry, axis=0)
        cut = np.concatenate([cut[: leave + 1], around, around[:1], cut[leave:]])
    return cut


def _nearest(first: FloatArray, second: FloatArray) -> tuple[int, int]:
    """Returns the indices of the two points, one of each outline, that are nearest to each other."""
    best = (np.inf, 0, 0)
    step = max(1, _PAIRS // len(second))
    for start in range(0, len(first), step):
        apart = first[start : start + step, None] - second[None]
        squares = np.einsum("abi,abi->ab", apart, apart)
        at = int(squares.argmin())
        row, column = divmod(at, len(second))
        if squares[row, column] < best[0]:
            best = (float(squares[row, column]), start + row, column)
    return best[1], best[2]
