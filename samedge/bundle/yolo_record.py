"""The part of the manifest specific to YOLOv8 and FastSAM."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from samedge.bundle.ranges import Count, Share, Side

YoloTask: TypeAlias = Literal["detect", "segment"]


class SuppressionRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Suppression of overlapping boxes inside the graph; see `samedge.runtime.yolo.detections`.

    Attributes:
        conf: Minimum score of a box, exclusive.
        iou: Of two boxes of one class that overlap by more, the lower-scoring one is dropped.
        max_det: Rows per image in the output; unused rows are zeros.
        agnostic: Boxes of different classes suppress each other too.
    """

    conf: Share = 0.25
    iou: Share = 0.7
    max_det: Count = 300
    agnostic: bool = False


class YoloRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A YOLOv8 or FastSAM.

    Attributes:
        task: "detect" for boxes, "segment" for masks too.
        names: Names of the classes in order.
        strides: Strides of the levels, px; height and width of the input are multiples of the coarsest.
        image_size: (height, width) of the input, px: fixed by the graph, or nominal if they are free.
        dynamic: True if height and width are free.
        nms: Suppression in the graph; None if the host does it.
        one_to_one: The model gives one box an object, and none is suppressed; left out where it does not.
    """

    task: YoloTask
    names: tuple[str, ...]
    strides: tuple[Side, ...]
    image_size: tuple[Side, Side]
    dynamic: bool
    nms: SuppressionRecord | None = None
    one_to_one: bool | msgspec.UnsetType = msgspec.UNSET
