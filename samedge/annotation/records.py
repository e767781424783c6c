"""Lines of the manifest: one record per image, complete enough to rebuild the labels and the COCO file."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Status: TypeAlias = Literal["annotated", "empty", "failed"]
"""Has objects, has none, or failed. Failed images are tried again when the run is resumed."""

Reason: TypeAlias = Literal["box", "score", "empty", "polygon"]
"""Cause of a missing label: see `REASONS`."""

REASONS: dict[Reason, str] = {
    "box": "its box has no area in the image",
    "score": "the predicted IoU of its mask is too low",
    "empty": "its mask is empty",
    "polygon": "its mask cannot be written as a polygon: it is in the COCO file alone",
}


class RleRecord(msgspec.Struct, frozen=True):
    """A mask in COCO's compressed RLE: [height, width], and the runs."""

    size: tuple[int, int]
    counts: str


class ObjectRecord(msgspec.Struct, frozen=True):
    """A segmented object.

    Attributes:
        proposal: Index of the detector's box.
        category: Class number, as in the labels.
        box: Tight box of the mask: x, y, width, height in px.
        area: Area of the mask, px.
        lines: Number of lines in the labels.
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
    """A box of the detector without labels: x1, y1, x2, y2 in px; its predicted IoU if it was segmented."""

    proposal: int
    category: int
    box: tuple[float, float, float, float]
    reason: Reason
    predicted_iou: float | None = None


class ImageRecord(msgspec.Struct, frozen=True):
    """A processed image.

    Attributes:
        image: Path below the root, with slashes.
        bytes: Size of the file; an image whose size or modification time has changed is processed again.
        label: Path of the labels below the output folder, if any.
        objects: In the order of the detector's boxes.
        error: Cause of a failure.
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
    """The part of an `ImageRecord` that decides if its image is done; decoding it skips the rest."""

    image: str
    status: Status
    bytes: int = 0
    mtime_ns: int = 0
    label: str | None = None
