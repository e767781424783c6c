"""Sizes of a YOLO, read from the shapes of its weights."""

from __future__ import annotations

from samedge.models.checkpoints.shapes import MisfitError, State, count_entries, shape_of
from samedge.models.yolo.yolo import C2F_LAYERS, HEAD_LAYER, YoloConfig


def yolo_sizes(state: State) -> YoloConfig:
    """Return the sizes of a YOLOv8 whose batch norms are folded.

    Raises:
        MisfitError: A weight is absent or has an odd shape.
    """
    head = f"model.{HEAD_LAYER}"
    c1, c2, c3, c4, c5 = (shape_of(state, f"model.{layer}.conv.weight", 4)[0] for layer in (0, 1, 3, 5, 7))
    sides = shape_of(state, f"{head}.cv2.0.2.weight", 4)[0]
    if sides % 4:
        raise MisfitError(f"its head gives {sides} numbers for the four sides of a box")
    segments = any(key.startswith(f"{head}.proto.") for key in state)
    return YoloConfig(
        widths=(c1, c2, c3, c4, c5),
        depths=tuple(count_entries(state, f"model.{layer}.m") for layer in C2F_LAYERS),
        classes=shape_of(state, f"{head}.cv3.0.2.weight", 4)[0],
        bins=sides // 4,
        box_width=shape_of(state, f"{head}.cv2.0.0.conv.weight", 4)[0],
        class_width=shape_of(state, f"{head}.cv3.0.0.conv.weight", 4)[0],
        prototypes=shape_of(state, f"{head}.cv4.0.2.weight", 4)[0] if segments else 0,
        mask_width=shape_of(state, f"{head}.cv4.0.0.conv.weight", 4)[0] if segments else 0,
        prototype_width=shape_of(state, f"{head}.proto.cv1.conv.weight", 4)[0] if segments else 0,
    )
