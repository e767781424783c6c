"""From masks to polygons, with a choice for masks of several parts.

Polygons run through the centres of the pixels on the edge, as OpenCV finds them, so a polygon's area is a little less
than its mask's, and a part of one or two pixels is a polygon of one or two points. **Holes are dropped**: a list of
points cannot say them, unless a bridge is cut to each (``holes="bridge"``). RLE keeps them
(`samedge.runtime.masks.rle`).
Knows nothing of results.
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
"""What becomes of a mask's parts: only the largest is kept, each is a polygon, or one outline joins them all."""

Holes: TypeAlias = Literal["fill", "bridge"]
"""What becomes of a part's holes: they are filled, or the outline goes along a bridge without area round each."""


def mask_to_polygons(mask: BoolArray, parts: Parts = "all", holes: Holes = "fill") -> list[FloatArray]:
    """Return the outer outlines of a mask, float32 ``[K, 2]`` each: (x, y) in px. An empty mask has none.

    Args:
        mask: bool ``[H, W]``.
        parts: "all": one polygon a part, the largest first. "largest": the part of the largest area alone.
            "merge": one polygon that goes through all parts and from each to the next and back along the same bridge,
            which has no area.
        holes: "fill": as if there were none. "bridge": each outline goes round the holes of its part too, in the same
            way.

    Raises:
        UsageError: `mask` is not such an array, `parts` is none of the three, or `holes` none of the two.
    """
    if parts not in ("largest", "all", "merge"):
        raise UsageError(f"parts is {parts!r}", cure="Give 'largest', 'all' or 'merge'")
    if holes not in ("fill", "bridge"):
        raise UsageError(f"holes is {holes!r}", cure="Give 'fill' or 'bridge'")
    outlines = mask_outlines(mask) if holes == "fill" else [cut_holes(*shape) for shape in mask_shapes(mask)]
    if len(outlines) > 1:
        if parts == "largest":
            outlines = outlines[:1]
        elif parts == "merge":
            outlines = [join_parts(outlines)]
    return outlines


def mask_outlines(mask: BoolArray, *, holes: bool = False) -> list[FloatArray]:
    """Return the outlines of a mask, float32 ``[K, 2]`` each: (x, y) in px, the largest area first.

    Args:
        mask: bool ``[H, W]``.
        holes: Whether to return the outlines of holes too; nothing tells them from those of parts.

    Raises:
        UsageError: `mask` is not such an array.
    """
    found, _ = _contours(mask, holes=holes)
    return sorted(found, key=_size, reverse=True)


def mask_shapes(mask: BoolArray) -> list[tuple[FloatArray, list[FloatArray]]]:
    """Return for each part of a mask its outline and those of its holes, the largest part first; as `mask_outlines`.

    Raises:
        UsageError: `mask` is not such an array.
    """
    found, owners = _contours(mask, holes=True)
    inside: dict[int, list[FloatArray]] = {at: [] for at, owner in enumerate(owners) if owner < 0}
    for outline, owner in zip(found, owners, strict=True):
        if owner >= 0:
            inside[owner].append(outline)
    parts = [(found[at], holes) for at, holes in inside.items()]
    return sorted(parts, key=lambda part: _size(part[0]), reverse=True)


def _contours(mask: BoolArray, *, holes: bool) -> tuple[list[FloatArray], list[int]]:
    """Return outlines, and for each the place of the one in which it is a hole, -1 for those of parts."""
    import cv2

    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise UsageError(
            f"a mask has the shape {mask.shape} and the dtype {mask.dtype}", cure="Give one mask, (H, W), of dtype bool"
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
    """By area, then by length, so that the order among thin parts without area is theirs too; sorted() is stable."""
    import cv2

    return float(cv2.contourArea(outline)), len(outline)


def polygon_area(polygon: FloatArray) -> float:
    """Return the area that a polygon encloses, px²: the shoelace formula. `polygon` is ``[K, 2]``."""
    x, y = polygon.astype(np.float64).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


# Distances between so many pairs of points are at hand at a time, in float32.
_PAIRS: Final = 1 << 20


def join_parts(outlines: Sequence[FloatArray]) -> FloatArray:
    """Return one closed outline through all parts, float32 ``[K, 2]``.

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
    """Return a closed outline that goes round each hole as well, float32 ``[K, 2]``.

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
    """Return the indices of the two points, one of each outline, that are nearest to each other."""
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
