"""Meta's mask generator and ours on the weights of sam_demo, and how far their masks agree."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import reference

import samedge
from samedge.models.checkpoint import read_checkpoint
from samedge.models.registry import recognise
from samedge.models.weights import find_checkpoint
from samedge.runtime.predictor import Predictor
from samedge.types import BoolArray, FloatArray, ImageArray
from tools.train_sam_demo.scenes import scene

SIZES = ((256, 256), (512, 340), (300, 512), (384, 512), (512, 288))


@cache
def demo_predictor() -> Predictor:
    """Returns a predictor of sam_demo, exported as users export it and run by onnxruntime."""
    folder = Path(tempfile.mkdtemp(prefix="samedge-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return samedge.load(samedge.export_model("sam_demo", output=folder / "bundle", check=False), threads=1, force=True)


@cache
def demo_reference() -> Any:
    """Returns Meta's `Sam` with the weights of sam_demo."""
    found = recognise(read_checkpoint(find_checkpoint("sam_demo")))
    return reference.reference_sam(found.state, found.config)


def meta_records(bgr: ImageArray, **options: Any) -> list[dict[str, Any]]:
    """Returns what Meta's ``SamAutomaticMaskGenerator`` finds."""
    generator = reference.segment_anything().SamAutomaticMaskGenerator(demo_reference(), **options)
    records: list[dict[str, Any]] = generator.generate(np.ascontiguousarray(bgr[..., ::-1]))
    return records


def drawn_scene(seed: int, height: int, width: int) -> ImageArray:
    """Returns a held-out scene, BGR, cut to this size."""
    drawn = scene(seed, "held_out", size=max(height, width)).image[:height, :width]
    return np.ascontiguousarray(drawn[..., ::-1])


def mask_ious(ours: Sequence[BoolArray], theirs: Sequence[BoolArray]) -> FloatArray:
    """Returns the IoU of each mask with each, float32 ``[ours, theirs]``; 1 where both are empty."""
    if not ours or not theirs:
        return np.zeros((len(ours), len(theirs)), np.float32)
    a = np.stack(ours).reshape(len(ours), -1).astype(np.float32)
    b = np.stack(theirs).reshape(len(theirs), -1).astype(np.float32)
    shared = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1)[None] - shared
    return np.where(union == 0, np.float32(1), shared / np.maximum(union, 1)).astype(np.float32)
