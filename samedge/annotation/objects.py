"""Stored forms of a mask: RLE, box, area, and the polygons of YOLO labels.

A line of YOLO labels is one polygon, which can represent neither several parts nor holes. `MaskPolicy` chooses their
treatment; RLE keeps the mask unchanged.
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
    """Treatment of masks that a single polygon cannot represent.

    Attributes:
        parts: "bridge": one line per object, its parts joined by bridges without area. "all": one line per part, which
            readers take for separate objects. "largest": the largest part only.
        holes: "fill": labels cover holes. "bridge": a bridge without area connects the outline to each hole. "drop": an
            object with holes gets no line, and is reported.
        min_area: First remove parts and fill holes of fewer px, in the RLE too; 0 leaves masks unchanged.

    Raises:
        UsageError: A value is invalid.
    """

    parts: LabelParts = "bridge"
    holes: LabelHoles = "fill"
    min_area: int = 0

    def __post_init__(self) -> None:
        if self.parts not in _PARTS:
            raise UsageError(f"invalid parts: {self.parts!r}", cure=f"Choose one of: {', '.join(_PARTS)}")
        if self.holes not in _HOLES:
            raise UsageError(f"invalid holes: {self.holes!r}", cure=f"Choose one of: {', '.join(_HOLES)}")
        if self.min_area < 0:
            raise UsageError(f"invalid min_area: {self.min_area}", cure="Give 0 or more px")


@dataclass(frozen=True, slots=True, eq=False)
class MaskForms:
    """Stored forms of a mask: box as x, y, width, height; polygons as float32 ``[K, 2]``, (x, y), K >= 3; all in px."""

    rle: RleRecord
    box: tuple[int, int, int, int]
    area: int
    polygons: list[FloatArray]


def mask_forms(mask: BoolArray, policy: MaskPolicy) -> MaskForms:
    """Return the stored forms of a mask, bool ``[H, W]``."""
    if policy.min_area and mask.any():
        for kind in ("holes", "islands"):
            changed = without_small_regions(mask, policy.min_area, kind)
            mask = mask if changed is None else changed
    rle = encode_rle(mask)
    height, width = mask.shape
    return MaskForms(RleRecord((height, width), rle["counts"]), rle_to_box(rle), rle_area(rle), outlines(mask, policy))


def outlines(mask: BoolArray, policy: MaskPolicy) -> list[FloatArray]:
    """Return the polygons of a mask, float32 ``[K, 2]``, (x, y) in px, K >= 3; none where the policy refuses holes."""
    if policy.holes == "drop" and any(holes for _, holes in polygons.mask_shapes(mask)):
        return []
    found = polygons.mask_to_polygons(mask, _PARTS[policy.parts], "bridge" if policy.holes == "bridge" else "fill")
    return [polygon for polygon in found if len(polygon) >= _FEWEST_POINTS]


def label_line(category: int, polygon: FloatArray, width: int, height: int) -> str:
    """Return a line of YOLO labels: the class, then x and y of each point, in px, as fractions of width and height."""
    return txt_line(category, (polygon.astype(np.float64) / (width, height)).reshape(-1).tolist())
