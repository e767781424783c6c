"""The released sizes of YOLOv8, to name a model by them and to make seeded ones. No model is read by this table."""

from __future__ import annotations

from typing import Final

from samedge.errors import UsageError
from samedge.models.yolo.yolo import YoloConfig

_WIDTHS: Final = {
    "n": (16, 32, 64, 128, 256),
    "s": (32, 64, 128, 256, 512),
    "m": (48, 96, 192, 384, 576),
    "l": (64, 128, 256, 512, 512),
    "x": (80, 160, 320, 640, 640),
}
_DEPTH: Final = {"n": 1, "s": 1, "m": 2, "l": 3, "x": 3}
_PROTOTYPE_WIDTH: Final = {"n": 64, "s": 128, "m": 192, "l": 256, "x": 320}
_FAST_SAM: Final = {"fastsam-s": "s", "fastsam-x": "x"}
_COCO_CLASSES: Final = 80
_PROTOTYPES: Final = 32
_BINS: Final = 16


def yolo_config(size: str, *, classes: int = _COCO_CLASSES, segments: bool = False) -> YoloConfig:
    """Return the configuration of a released size.

    Args:
        size: "n", "s", "m", "l" or "x".
        classes: Number of classes.
        segments: Whether it gives masks.
    """
    widths, depth = _WIDTHS[size], _DEPTH[size]
    finest = widths[2]
    return YoloConfig(
        widths=widths,
        depths=(depth, 2 * depth, 2 * depth, *[depth] * 5),
        classes=classes,
        bins=_BINS,
        box_width=max(16, finest // 4, 4 * _BINS),
        class_width=max(finest, min(classes, 100)),
        prototypes=_PROTOTYPES if segments else 0,
        mask_width=max(finest // 4, _PROTOTYPES) if segments else 0,
        prototype_width=_PROTOTYPE_WIDTH[size] if segments else 0,
    )


def named_yolo_config(name: str) -> YoloConfig:
    """Return the configuration of "yolov8n" … "yolov8x", "yolov8n-seg" … "yolov8x-seg", "fastsam-s" or "fastsam-x".

    Raises:
        UsageError: There is none of this name.
    """
    name = name.lower()
    if name in _FAST_SAM:
        return yolo_config(_FAST_SAM[name], classes=1, segments=True)
    size = name.removeprefix("yolov8").removesuffix("-seg")
    if not name.startswith("yolov8") or size not in _WIDTHS:
        names = [f"yolov8{size}{end}" for end in ("", "-seg") for size in _WIDTHS]
        raise UsageError(f"there are no sizes for {name!r}", cure=f"Choose one of: {', '.join((*names, *_FAST_SAM))}")
    return yolo_config(size, segments=name.endswith("-seg"))


def is_yolo_name(name: str) -> bool:
    """Return True if a name is meant for a YOLOv8 or FastSAM, even of an unknown size."""
    return name.lower().startswith(("yolov8", "fastsam"))


def known_yolo_name(config: YoloConfig, *, fast_sam: bool = False) -> str:
    """Return the name of the model that has these sizes, whatever its classes: "yolov8n-seg", or "yolov8-seg".

    Args:
        config: Its sizes.
        fast_sam: It is known to be a FastSAM, which has the sizes of a YOLOv8 segmenter of one class.
    """
    if fast_sam:
        for name, size in _FAST_SAM.items():
            if config == yolo_config(size, classes=1, segments=True):
                return name
    end = "-seg" if config.segments else ""
    for size in _WIDTHS:
        if config == yolo_config(size, classes=config.classes, segments=config.segments):
            return f"yolov8{size}{end}"
    return f"yolov8{end}"
