"""From a mask of SAM to what is kept of it: RLE, box and area, and lines of YOLO's labels by a named policy.

YOLO's labels hold one polygon a line, which can say neither parts nor holes. `MaskPolicy` names what becomes of them;
RLE keeps the mask as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from samedge.annotation.records import RleRecord
from samedge.errors import UsageError
from samedge.runtime.everything.small_regions import without_small_regions
from samedge.runtime.masks import polygons
from samedge.runtime.masks.rle import encode_rle, rle_area, rle_to_box
from samedge.runtime.results.records import txt_line
from samedge.types import BoolArray, FloatArray

LabelParts: TypeAlias = Literal["bridge", "all", "largest"]
LabelHoles: TypeAlias = Literal["fill", "bridge", "drop"]

_PARTS: Final[dict[LabelParts, polygons.Parts]] = {"bridge": "merge", "all": "all", "largest": "largest"}
_HOLES: Final = ("fill", "bridge", "drop")
_FEWEST_POINTS: Final = 3


@dataclass(frozen=True, slots=True)
class MaskPolicy:
    """What becomes of masks that one polygon cannot say.

    Attributes:
        parts: "bridge": one line an object, its parts joined along bridges without area. "all": a line for each part,
            which readers take for objects of their own. "largest": the largest part alone.
        holes: "fill": labels cover holes. "bridge": the polygon goes along a bridge without area round each hole.
            "drop": an object with holes gets no line, and is reported.
        min_area: Parts and holes of fewer px are removed and filled first, in RLE too; 0 leaves masks as they are.

    Raises:
        UsageError: There is no such policy.
    """

    parts: LabelParts = "bridge"
    holes: LabelHoles = "fill"
    min_area: int = 0

    def __post_init__(self) -> None:
        if self.parts not in _PARTS:
            raise UsageError(f"parts is {self.parts!r}", cure=f"Choose one of: {', '.join(_PARTS)}")
        if self.holes not in _HOLES:
            raise UsageError(f"holes is {self.holes!r}", cure=f"Choose one of: {', '.join(_HOLES)}")
        if self.min_area < 0:
            raise UsageError(f"min_area is {self.min_area}", cure="Give 0 or more px")


@dataclass(frozen=True, slots=True, eq=False)
class MaskForms:
    """A mask as it is kept.

    Attributes:
        rle: The mask.
        box: x, y, width, height in px.
        area: px.
        polygons: float32 ``[K, 2]`` each: (x, y) in px, of three points or more; a line each.
    """

    rle: RleRecord
    box: tuple[int, int, int, int]
    area: int
    polygons: list[FloatArray]


def mask_forms(mask: BoolArray, policy: MaskPolicy) -> MaskForms:
    """Return the forms in which a mask is kept.

    Args:
        mask: bool ``[H, W]``.
        policy: What becomes of parts and holes.
    """
    if policy.min_area and mask.any():
        filled = without_small_regions(mask, policy.min_area, "holes")
        mask = mask if filled is None else filled
        without = without_small_regions(mask, policy.min_area, "islands")
        mask = mask if without is None else without
    rle = encode_rle(mask)
    found: list[FloatArray] = []
    if not (policy.holes == "drop" and any(holes for _, holes in polygons.mask_shapes(mask))):
        found = polygons.mask_to_polygons(mask, _PARTS[policy.parts], "bridge" if policy.holes == "bridge" else "fill")
    height, width = mask.shape
    return MaskForms(
        RleRecord((height, width), rle["counts"]),
        rle_to_box(rle),
        rle_area(rle),
        [polygon for polygon in found if len(polygon) >= _FEWEST_POINTS],
    )


def label_line(category: int, polygon: FloatArray, width: int, height: int) -> str:
    """Return a line of YOLO's labels: the class, then x and y of each point as shares of width and height.

    Args:
        category: The class.
        polygon: float32 ``[K, 2]``: (x, y) in px.
        width: Of the image, px.
        height: Of the image, px.
    """
    return txt_line(category, (polygon.astype(np.float64) / (width, height)).reshape(-1).tolist())
