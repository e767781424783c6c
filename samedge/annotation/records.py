"""What is kept of each image: a line of the manifest, from which the labels and COCO's file can be made again."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Status: TypeAlias = Literal["annotated", "empty", "failed"]
"""Has objects, has none, or could not be done. The last kind is tried again when the run is resumed."""

Reason: TypeAlias = Literal["box", "score", "empty", "polygon"]
"""Why an object is missing: its box has no area in the image, SAM trusts the mask too little, the mask has no pixel; or
it is in COCO's file alone, because no polygon can say it."""

REASONS: dict[Reason, str] = {
    "box": "its box has no area in the image",
    "score": "the predicted IoU of its mask is too low",
    "empty": "its mask is empty",
    "polygon": "its mask cannot be written as a polygon: it is in the COCO file alone",
}


class RleRecord(msgspec.Struct, frozen=True):
    """A mask in COCO's compressed form: [height, width], and the runs."""

    size: tuple[int, int]
    counts: str


class ObjectRecord(msgspec.Struct, frozen=True):
    """An object that was found.

    Attributes:
        proposal: Which of the detector's boxes it answers, from 0.
        category: Its class, as a number of YOLO's labels.
        score: The detector's; None where it gives none.
        predicted_iou: SAM's.
        rle: The mask.
        box: Tight box of the mask: x, y, width, height in px.
        area: Of the mask, px.
        lines: Lines that it has in the labels.
    """

    proposal: int
    category: int
    score: float | None
    predicted_iou: float
    rle: RleRecord
    box: tuple[int, int, int, int]
    area: int
    lines: int


class DropRecord(msgspec.Struct, frozen=True):
    """A box of the detector that has no labels.

    Attributes:
        proposal: Which, from 0.
        category: Its class.
        box: x1, y1, x2, y2 in px.
        reason: Why.
        predicted_iou: SAM's, where it was asked.
    """

    proposal: int
    category: int
    box: tuple[float, float, float, float]
    reason: Reason
    predicted_iou: float | None = None


class ImageRecord(msgspec.Struct, frozen=True):
    """An image that is done with.

    Attributes:
        image: Its path below the root, with slashes.
        status: How it went.
        bytes: Size of the file, and
        mtime_ns: when it was changed: a file that differs is done again.
        width: px.
        height: px.
        label: Path of its labels below the output folder; None where it has none.
        objects: In the order of the detector's boxes.
        dropped: Boxes without labels.
        error: Why it failed.
    """

    image: str
    status: Status
    bytes: int = 0
    mtime_ns: int = 0
    width: int = 0
    height: int = 0
    label: str | None = None
    objects: tuple[ObjectRecord, ...] = ()
    dropped: tuple[DropRecord, ...] = ()
    error: str | None = None


class ImageKey(msgspec.Struct, frozen=True):
    """The part of an `ImageRecord` that says whether its image is done; the rest is skipped when it is read."""

    image: str
    status: Status
    bytes: int = 0
    mtime_ns: int = 0
    label: str | None = None
