"""Sizes of a YOLO, read from the shapes of its weights."""

from __future__ import annotations

from samedge.models.checkpoints.shapes import MisfitError, State, _count, _shape
from samedge.models.yolo.yolo import C2F_LAYERS, HEAD_LAYER, YoloConfig


def yolo_sizes(state: State) -> YoloConfig:
    """Return the sizes of a YOLOv8 whose batch norms are folded.

    Raises:
        MisfitError: A weight is absent or has an odd shape.
    """
    head = f"model.{HEAD_LAYER}"
    c1, c2, c3, c4, c5 = (_shape(state, f"model.{layer}.conv.weight", 4)[0] for layer in (0, 1, 3, 5, 7))
    sides = _shape(state, f"{head}.cv2.0.2.weight", 4)[0]
    if sides % 4:
        raise MisfitError(f"its head gives {sides} numbers for the four sides of a box")
    segments = any(key.startswith(f"{head}.proto.") for key in state)
    return YoloConfig(
        widths=(c1, c2, c3, c4, c5),
        depths=tuple(_count(state, f"model.{layer}.m") for layer in C2F_LAYERS),
        classes=_shape(state, f"{head}.cv3.0.2.weight", 4)[0],
        bins=sides // 4,
        box_width=_shape(state, f"{head}.cv2.0.0.conv.weight", 4)[0],
        class_width=_shape(state, f"{head}.cv3.0.0.conv.weight", 4)[0],
        prototypes=_shape(state, f"{head}.cv4.0.2.weight", 4)[0] if segments else 0,
        mask_width=_shape(state, f"{head}.cv4.0.0.conv.weight", 4)[0] if segments else 0,
        prototype_width=_shape(state, f"{head}.proto.cv1.conv.weight", 4)[0] if segments else 0,
    )
