"""Meta's mask generator and ours on the weights of sam_demo, and how far their masks agree."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
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
from support.shared import made_once
from tools.train_sam_demo.scenes import scene

__all__ = ["SIZES", "demo_predictor", "demo_reference", "drawn_scene", "mask_ious", "meta_records"]

SIZES = ((256, 256), (512, 340), (300, 512), (384, 512), (512, 288))


@cache
def demo_predictor() -> Predictor:
    """Returns a predictor of sam_demo, exported as users export it and run by onnxruntime."""
    bundle = made_once("sam_demo", lambda path: samedge.export_model("sam_demo", output=path, check=False))
    return samedge.load(bundle, threads=1, force=True)


@cache
def demo_reference() -> Any:
    """Returns Meta's `Sam` with the weights of sam_demo; an image that it has seen is not encoded again."""
    found = recognise(read_checkpoint(find_checkpoint("sam_demo")))
    sam = reference.reference_sam(found.state, found.config)
    encode, seen = sam.image_encoder.forward, {}

    def remembered(image: Any) -> Any:
        key = sha256(image.numpy()).digest()
        if key not in seen:
            seen[key] = encode(image)
        return seen[key]

    sam.image_encoder.forward = remembered
    return sam


def meta_records(bgr: ImageArray, **options: Any) -> list[dict[str, Any]]:
    """Returns what Meta's ``SamAutomaticMaskGenerator`` finds."""
    generator = reference.segment_anything().SamAutomaticMaskGenerator(demo_reference(), **options)
    records: list[dict[str, Any]] = generator.generate(np.ascontiguousarray(bgr[..., ::-1]))
    return records


@cache
def drawn_scene(seed: int, height: int, width: int) -> ImageArray:
    """Returns a held-out scene, BGR, cut to this size."""
    drawn = scene(seed, "held_out", size=max(height, width)).image[:height, :width]
    return np.ascontiguousarray(drawn[..., ::-1])
