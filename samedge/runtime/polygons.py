"""From masks to polygons, with a choice for masks of several parts.

Polygons run through the centres of the pixels on the edge, as OpenCV finds them, so a polygon's area is a little less
than its mask's, and a part of one or two pixels is a polygon of one or two points. **Holes are dropped**: a list of
points cannot say them. RLE keeps them (`samedge.runtime.rle`). Knows nothing of results.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Literal, TypeAlias

import numpy as np

from samedge.errors import UsageError
from samedge.runtime.extent import mask_extent
from samedge.types import BoolArray, FloatArray

Parts: TypeAlias = Literal["largest", "all", "merge"]
"""What becomes of a mask's parts: only the largest is kept, each is a polygon, or one outline joins them all."""

# Distances between so many pairs of points are at hand at a time, in float32.
_PAIRS: Final = 1 << 20


def mask_to_polygons(mask: BoolArray, parts: Parts = "all") -> list[FloatArray]:
    """Returns the outer outlines of a mask, float32 ``[K, 2]`` each: (x, y) in px. An empty mask has none.

    Args:
        mask: bool ``[H, W]``.
        parts: "all": one polygon a part, the largest first. "largest": the part of the largest area alone.
            "merge": one polygon that goes through all parts and from each to the next and back along the same bridge,
            which has no area.

    Raises:
        UsageError: `mask` is not such an array, or `parts` is none of the three.
    """
    if parts not in ("largest", "all", "merge"):
        raise UsageError(f"parts is {parts!r}", cure="Give 'largest', 'all' or 'merge'")
    outlines = mask_outlines(mask)
    if len(outlines) > 1:
        if parts == "largest":
            outlines = outlines[:1]
        elif parts == "merge":
            outlines = [_joined(outlines)]
    return outlines


def mask_outlines(mask: BoolArray, *, holes: bool = False) -> list[FloatArray]:
    """Returns the outlines of a mask, float32 ``[K, 2]`` each: (x, y) in px, the largest area first.

    Args:
        mask: bool ``[H, W]``.
        holes: Whether to return the outlines of holes too; nothing tells them from those of parts.

    Raises:
        UsageError: `mask` is not such an array.
    """
    import cv2

    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise UsageError(
            f"a mask has the shape {mask.shape} and the dtype {mask.dtype}", cure="Give one mask, (H, W), of dtype bool"
        )
    extent = mask_extent(mask)
    if extent is None:
        return []
    rows, columns = extent
    inside = np.ascontiguousarray(mask[rows, columns]).view(np.uint8)
    mode = cv2.RETR_CCOMP if holes else cv2.RETR_EXTERNAL
    found, _ = cv2.findContours(inside, mode, cv2.CHAIN_APPROX_SIMPLE, offset=(columns.start, rows.start))
    # By area, then by length, so that the order among thin parts without area is theirs too; sorted() is stable.
    ordered = sorted(found, key=lambda outline: (cv2.contourArea(outline), len(outline)), reverse=True)
    return [outline.reshape(-1, 2).astype(np.float32) for outline in ordered]


def polygon_area(polygon: FloatArray) -> float:
    """Returns the area that a polygon encloses, px²: the shoelace formula. `polygon` is ``[K, 2]``."""
    x, y = polygon.astype(np.float64).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _joined(outlines: list[FloatArray]) -> FloatArray:
    """Returns one closed outline through all parts.

    The parts make a chain from top to bottom. Each is entered at the point nearest to the part before, left at the
    point nearest to the next, and finished on the way back: time and memory are those of the points, however many
    parts there are.
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
