"""From masks to polygons, with a choice for masks of several parts.

Polygons run through the centres of the pixels on the edge, as OpenCV finds them, so a polygon's area is a little less
than its mask's, and a part of one or two pixels is a polygon of one or two points. **Holes are dropped**: a list of
points cannot say them, unless a bridge is cut to each (``holes="bridge"``). RLE keeps them (`samedge.runtime.rle`).
Knows nothing of results.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from samedge.errors import UsageError
from samedge.runtime.extent import mask_extent
from samedge.runtime.outline_bridges import cut_holes, join_parts
from samedge.types import BoolArray, FloatArray

Parts: TypeAlias = Literal["largest", "all", "merge"]
"""What becomes of a mask's parts: only the largest is kept, each is a polygon, or one outline joins them all."""

Holes: TypeAlias = Literal["fill", "bridge"]
"""What becomes of a part's holes: they are filled, or the outline goes along a bridge without area round each."""


def mask_to_polygons(mask: BoolArray, parts: Parts = "all", holes: Holes = "fill") -> list[FloatArray]:
    """Returns the outer outlines of a mask, float32 ``[K, 2]`` each: (x, y) in px. An empty mask has none.

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
    """Returns the outlines of a mask, float32 ``[K, 2]`` each: (x, y) in px, the largest area first.

    Args:
        mask: bool ``[H, W]``.
        holes: Whether to return the outlines of holes too; nothing tells them from those of parts.

    Raises:
        UsageError: `mask` is not such an array.
    """
    found, _ = _contours(mask, holes=holes)
    return sorted(found, key=_size, reverse=True)


def mask_shapes(mask: BoolArray) -> list[tuple[FloatArray, list[FloatArray]]]:
    """Returns for each part of a mask its outline and those of its holes, the largest part first; as `mask_outlines`.

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
    """Returns outlines, and for each the place of the one in which it is a hole, -1 for those of parts."""
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
    """Returns the area that a polygon encloses, px²: the shoelace formula. `polygon` is ``[K, 2]``."""
    x, y = polygon.astype(np.float64).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
