"""What the manifest of a bundle says of a YOLOv8 or FastSAM, beside what it says of every model."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

YoloTask: TypeAlias = Literal["detect", "segment"]


class SuppressionRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a graph suppresses boxes that overlap, where that is in the graph; see `samedge.runtime.yolo.detections`.

    Attributes:
        conf: Boxes score more.
        iou: Of two boxes of one class that overlap by more, the one that scores less is dropped.
        max_det: Rows that the graph gives for each image; rows that are not needed are zeros.
        agnostic: Boxes of different classes suppress each other too.
    """

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    agnostic: bool = False


class YoloRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A YOLOv8 or FastSAM.

    Attributes:
        task: "detect" for boxes, "segment" for masks too.
        names: Names of the classes in order.
        strides: Of the levels, px; height and width of the input are multiples of the coarsest.
        image_size: (height, width) of the input, px: what the graph fixes, or what it is meant for if they are free.
        dynamic: Height and width are free.
        nms: How the graph suppresses boxes; None where it leaves that to the host.
    """

    task: YoloTask
    names: tuple[str, ...]
    strides: tuple[int, ...]
    image_size: tuple[int, int]
    dynamic: bool
    nms: SuppressionRecord | None = None
