"""Polygons from masks, with a choice for masks of several parts.

Polygons run through the centres of the pixels on the edge, as OpenCV finds them, so a polygon's area is slightly less
than its mask's, and a part of one or two pixels is a polygon of one or two points. **Holes are dropped**: a list of
points cannot express them, unless a bridge is cut to each (``holes="bridge"``). RLE keeps them
(`samedge.runtime.masks.rle`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal, TypeAlias

import numpy as np

from samedge.errors import UsageError
from samedge.runtime.masks.rle import mask_extent
from samedge.types import BoolArray, FloatArray

Parts: TypeAlias = Literal["largest", "all", "merge"]
"""Treatment of a mask's parts: keep only the largest, make each a polygon, or join all in one outline."""

Holes: TypeAlias = Literal["fill", "bridge"]
"""Treatment of a part's holes: fill them, or extend the outline around each over a bridge without area."""


def mask_to_polygons(mask: BoolArray, parts: Parts = "all", holes: Holes = "fill") -> list[FloatArray]:
    """Return the outer outlines of a mask, float32 ``[K, 2]`` each: (x, y) in px. An empty mask has none.

    Args:
        mask: bool ``[H, W]``.
        parts: "all": one polygon per part, the largest first. "largest": only the part of the largest area.
            "merge": one polygon through all parts, which goes from each to the next and back along the same bridge
            without area.
        holes: "fill": ignore them. "bridge": each outline also goes around the holes of its part, in the same way.

    Raises:
        UsageError: `mask` is not such an array, `parts` is none of the three, or `holes` none of the two.
    """
    if parts not in ("largest", "all", "merge"):
        raise UsageError(f"invalid parts {parts!r}", cure="Give 'largest', 'all' or 'merge'")
    if holes not in ("fill", "bridge"):
        raise UsageError(f"invalid holes {holes!r}", cure="Give 'fill' or 'bridge'")
    outlines = mask_outlines(mask) if holes == "fill" else [cut_holes(*shape) for shape in mask_shapes(mask)]
    if len(outlines) > 1:
        if parts == "largest":
            outlines = outlines[:1]
        elif parts == "merge":
            outlines = [join_parts(outlines)]
    return outlines


def mask_outlines(mask: BoolArray, *, holes: bool = False) -> list[FloatArray]:
    """Return the outlines of a mask, bool ``[H, W]``: float32 ``[K, 2]`` each, (x, y) in px, the largest area first.

    With `holes`, those of holes are included, indistinguishable from those of parts.

    Raises:
        UsageError: `mask` is not such an array.
    """
    return sorted(_contours(mask, holes=holes)[0], key=_size, reverse=True)


def mask_shapes(mask: BoolArray) -> list[tuple[FloatArray, list[FloatArray]]]:
    """Return the outline of each part and those of its holes, the largest part first; see `mask_outlines`."""
    found, owners = _contours(mask, holes=True)
    inside: dict[int, list[FloatArray]] = {at: [] for at, owner in enumerate(owners) if owner < 0}
    for outline, owner in zip(found, owners, strict=True):
        if owner >= 0:
            inside[owner].append(outline)
    parts = [(found[at], holes) for at, holes in inside.items()]
    return sorted(parts, key=lambda part: _size(part[0]), reverse=True)


def _contours(mask: BoolArray, *, holes: bool) -> tuple[list[FloatArray], list[int]]:
    """Return outlines, and for each the index of the one it is a hole of, -1 for parts."""
    import cv2

    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise UsageError(
            f"invalid mask of shape {mask.shape} and dtype {mask.dtype}", cure="Give one mask, (H, W), of dtype bool"
        )
    extent = mask_extent(mask)
    if extent is None:
        return [], []
    rows, columns = extent
    inside = np.ascontiguousarray(mask[rows, columns]).view(np.uint8)
    mode = cv2.RETR_CCOMP if holes else cv2.RETR_EXTERNAL
    offset = (columns.start, rows.start)
    found, tree = cv2.findContours(inside, mode, cv2.CHAIN_APPROX_SIMPLE, offset=offset)
    outlines = [np.asarray(outline).reshape(-1, 2).astype(np.float32) for outline in found]
    return outlines, np.asarray(tree)[0, :, 3].tolist()


def _size(outline: FloatArray) -> tuple[float, int]:
    """Return area, then length, to order thin parts without area too; sorted() is stable."""
    import cv2

    return float(cv2.contourArea(outline)), len(outline)


def polygon_area(polygon: FloatArray) -> float:
    """Return the area that a polygon encloses, px²: the shoelace formula. `polygon` is ``[K, 2]``."""
    x, y = polygon.astype(np.float64).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


# Pairs of points whose float32 distances are in memory at a time.
_PAIRS: Final = 1 << 20


def join_parts(outlines: Sequence[FloatArray]) -> FloatArray:
    """Return one closed outline through all parts, float32 ``[K, 2]``.

    The parts form a chain from top to bottom. Each is entered at the point nearest to the previous part, left at the
    point nearest to the next, and finished on the way back: time and memory depend on the points, not on the number of
    parts.
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
        # The way back starts at the bridge, and ends where this part was entered.
        back.append(np.concatenate([around[way:], around[:1]]))
        entry = next_entry
    last = np.roll(chain[-1], -entry, axis=0)
    closed = np.concatenate([*forth, last, last[:1], *reversed(back)])
    return closed[:-1]  # the first point again


def cut_holes(outline: FloatArray, holes: Sequence[FloatArray]) -> FloatArray:
    """Return a closed outline that also goes around each hole, float32 ``[K, 2]``; holes must not be nested.

    Filled by the even-odd rule, as in OpenCV and Pillow, it leaves the holes out, except for the line of each bridge if
    that is drawn.
    """
    cut = outline
    for hole in sorted(holes, key=lambda hole: (float(hole[:, 0].min()), float(hole[:, 1].min()))):
        leave, entry = _nearest(cut, hole)
        around = np.roll(hole, -entry, axis=0)
        cut = np.concatenate([cut[: leave + 1], around, around[:1], cut[leave:]])
    return cut


def _nearest(first: FloatArray, second: FloatArray) -> tuple[int, int]:
    """Return the indices of the nearest pair of points, one of each outline."""
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
