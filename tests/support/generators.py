"""Meta's mask generator and ours on the weights of sam_demo, and how far their masks agree."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import samedge
from samedge.benchmarks.measure.agreement import mask_ious
from samedge.models.checkpoints.read import read_checkpoint
from samedge.models.checkpoints.weights import find_checkpoint
from samedge.models.sam.registry import recognise
from samedge.runtime.predictor import Predictor
from samedge.types import ImageArray
from support import reference
from tools.train_sam_demo.scenes import scene

__all__ = ["SIZES", "demo_predictor", "demo_reference", "drawn_scene", "mask_ious", "meta_records"]

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
