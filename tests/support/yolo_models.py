"""Small YOLOs with seeded weights, as checkpoints and as bundles."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch

import samedge
from samedge.models.yolo.architectures import architecture
from samedge.models.yolo.seeded import seeded_yolo
from samedge.models.yolo.yolo import YoloConfig
from support.shared import made_once


def yolov8_config(
    widths: tuple[int, int, int, int, int],
    depths: tuple[int, ...],
    classes: int,
    bins: int,
    box_width: int,
    class_width: int,
    prototypes: int = 0,
    mask_width: int = 0,
    prototype_width: int = 0,
) -> YoloConfig:
    """A YOLOv8 with such channels at strides 2 to 32, and so many bottlenecks in its eight blocks."""
    table = architecture("yolov8")
    c1, c2, c3, c4, c5 = widths
    by_layer = {0: c1, 1: c2, 2: c2, 3: c3, 4: c3, 5: c4, 6: c4, 7: c5, 8: c5, 9: c5}
    by_layer |= {12: c4, 15: c3, 16: c3, 18: c4, 19: c4, 21: c5}
    links = iter(depths)
    layers = []
    for number, layer in enumerate(table.layers):
        width = by_layer.get(number, 0)
        hidden = width // 2 if layer.kind in ("C2f", "SPPF") else 0
        depth = next(links) if layer.kind == "C2f" else layer.depth
        inner = hidden if layer.kind == "C2f" else 0
        layers.append(replace(layer, width=width, hidden=hidden, depth=depth, inner=inner))
    return YoloConfig(
        "yolov8", tuple(layers), table.levels, classes, bins, box_width, class_width, prototypes, mask_width,
        prototype_width,
    )  # fmt: skip


SMALL = yolov8_config((8, 12, 16, 24, 32), (1, 1, 1, 1, 1, 1, 1, 1), 3, 8, 16, 16, 4, 8, 12)
DETECTOR = yolov8_config((8, 8, 16, 16, 24), (1, 1, 1, 1, 1, 1, 1, 1), 2, 16, 64, 16)
SIDE = 128
CONF = 0.02
"""A threshold that some of their anchors pass."""


@cache
def folder() -> Path:
    """A folder that is there until the process ends."""
    made = Path(tempfile.mkdtemp(prefix="samedge-tests-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def checkpoint(config: YoloConfig = SMALL) -> Path:
    """A state dict, without anything that Ultralytics would add."""
    name = f"small{'-seg' if config.segments else ''}.pt"
    return made_once(f"{_key(config)}/{name}", lambda path: torch.save(seeded_yolo(config).state_dict(), path))


@cache
def bundle(config: YoloConfig = SMALL, *, nms: bool = False, dynamic: bool = True) -> Path:
    """A bundle of a small model; made once in a run."""
    weights = checkpoint(config)
    kind = f"{'-nms' if nms else ''}{'' if dynamic else '-fixed'}"
    return made_once(
        f"{_key(config)}/{weights.stem}{kind}-samedge",
        lambda path: samedge.export_model(
            weights, output=path, image_size=SIDE, nms=nms, conf=CONF, max_det=50, dynamic=dynamic
        ),
    )


def _key(config: YoloConfig) -> str:
    return f"yolo-{sha256(repr(config).encode()).hexdigest()[:16]}"
