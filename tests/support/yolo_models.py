"""Small YOLOs with seeded weights, as checkpoints and as bundles."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch

import samedge
from samedge.models.yolo.seeded import seeded_yolo
from samedge.models.yolo.yolo import YoloConfig
from support.shared import made_once

SMALL = YoloConfig((8, 12, 16, 24, 32), (1, 1, 1, 1, 1, 1, 1, 1), 3, 8, 16, 16, 4, 8, 12)
DETECTOR = YoloConfig((8, 8, 16, 16, 24), (1, 1, 1, 1, 1, 1, 1, 1), 2, 16, 64, 16)
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
