"""The released sizes of YOLOs, for naming models and for seeded weights. Loading does not depend on them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from samedge.errors import UsageError
from samedge.models.yolo.architectures import ARCHITECTURES, SCALES, architecture, scaled_layers
from samedge.models.yolo.yolo import MANY, ONE, YoloConfig

_SIZES: Final = tuple(SCALES["yolo"])
_FAST_SAM: Final = {"fastsam-s": "s", "fastsam-x": "x"}
_COCO_CLASSES: Final = 80
_PROTOTYPES: Final = 32
_BINS: Final = 16
_NAME: Final = re.compile(r"(?P<family>yolov8|yolo11|yolo12|yolo26)(?P<size>[nsmlx])(?P<more>-seg)?(?P<level>-p[26])?")


def yolo_config(
    size: str, *, architecture_name: str = "yolov8", classes: int = _COCO_CLASSES, segments: bool = False
) -> YoloConfig:
    """Return the configuration of a released size.

    Args:
        size: "n", "s", "m", "l" or "x".
        architecture_name: A line of `samedge.models.yolo.architectures`.
        classes: Number of classes.
        segments: The model returns masks.
    """
    layers = scaled_layers(architecture_name, size)
    levels = architecture(architecture_name).levels
    finest = layers[levels[0]].width
    newest = architecture_name.startswith("yolo26")
    bins = 1 if newest else _BINS
    scale = SCALES["yolov8" if architecture_name.startswith("yolov8") else "yolo"][size]
    return YoloConfig(
        architecture=architecture_name,
        layers=layers,
        levels=levels,
        classes=classes,
        bins=bins,
        box_width=max(16, finest // 4, 4 * bins),
        class_width=max(finest, min(classes, 100)),
        prototypes=_PROTOTYPES if segments else 0,
        mask_width=max(finest // 4, _PROTOTYPES) if segments else 0,
        prototype_width=scale.channels(256) if segments else 0,
        light=not architecture_name.startswith("yolov8"),
        heads=(MANY, ONE) if newest else (MANY,),
        merged=newest and segments,
    )


def named_yolo_config(name: str) -> YoloConfig:
    """Return the configuration of a name such as "yolov8n", "yolo11n-seg", "yolov8m-p2" or "fastsam-s".

    Raises:
        UsageError: It is unknown.
    """
    name = name.lower()
    if name in _FAST_SAM:
        return yolo_config(_FAST_SAM[name], classes=1, segments=True)
    match = _NAME.fullmatch(name)
    line = f"{match['family']}{match['level'] or ''}" if match else ""
    if match is None or line not in ARCHITECTURES:
        families = ("yolov8", "yolo11", "yolo12", "yolo26")
        names = [f"{family}{size}{end}" for family in families for end in ("", "-seg") for size in _SIZES]
        raise UsageError(f"unknown model {name!r}", cure=f"Choose one of: {', '.join((*names, *_FAST_SAM))}")
    return yolo_config(match["size"], architecture_name=line, segments=bool(match["more"]))


def is_yolo_name(name: str) -> bool:
    """Return True if a name refers to a YOLO or FastSAM, even of an unknown size."""
    return name.lower().startswith(("yolo", "fastsam"))


def known_yolo_name(config: YoloConfig, *, fast_sam: bool = False) -> str:
    """Return the name of a model of these sizes and any classes, such as "yolov8n-seg"; "yolov8-seg" for unknown sizes.

    `fast_sam` tells FastSAM from a YOLOv8 segmenter of one class.
    """
    if fast_sam:
        for name, size in _FAST_SAM.items():
            if config == yolo_config(size, classes=1, segments=True):
                return name
    family, dash, level = config.architecture.partition("-")
    end = f"{'-seg' if config.segments else ''}{dash}{level}"
    for size in _SIZES:
        known = yolo_config(
            size, architecture_name=config.architecture, classes=config.classes, segments=config.segments
        )
        if config == replace(known, heads=config.heads):
            return f"{family}{size}{end}"
    return f"{family}{end}"
