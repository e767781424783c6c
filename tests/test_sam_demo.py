"""The model that comes along: it exports like any other, and its masks mean something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import samedge
from samedge.bundle.manifest import MANIFEST_NAME, read_manifest
from samedge.cli.demo import DRAWN
from samedge.parity.compare import mask_iou
from tools.train_sam_demo.scenes import scene

DRAWN_SEED = 115
"""samedge/assets/scene.jpg is this held-out scene at 512 px."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samedge.export_model("sam_demo", output=tmp_path_factory.mktemp("sam_demo") / "bundle")


def test_it_is_read_and_proved_like_any_checkpoint(bundle: Path) -> None:
    manifest = read_manifest(bundle / MANIFEST_NAME)
    assert manifest.parity.verdict == "passed"
    assert manifest.model.licence == "Apache-2.0"
    assert manifest.model.checkpoint == "sam_demo.safetensors"
    assert not manifest.model.seeded
    assert manifest.input.image_size == 512


def test_the_demo_s_masks_are_plainly_right(bundle: Path) -> None:
    drawn = scene(DRAWN_SEED, "held_out", size=512)
    with samedge.load(bundle) as predictor:
        predictor.set_image(DRAWN.path)
        by_point, by_box = predictor.predict(points=DRAWN.point), predictor.predict(boxes=DRAWN.box)
    assert max(mask_iou(by_point.masks[0], mask) for mask in drawn.masks) > 0.85
    assert max(mask_iou(by_box.masks[0], mask) for mask in drawn.masks) > 0.85


def test_boxes_on_held_out_scenes(bundle: Path) -> None:
    """Far from chance; how good exactly is the evaluation's to say, and the model card's to report."""
    ious: list[float] = []
    with samedge.load(bundle) as predictor:
        for seed in range(8):
            drawn = scene(seed, "held_out")
            predictor.set_image(np.ascontiguousarray(drawn.image[..., ::-1]))
            boxes = [[xs.min(), ys.min(), xs.max(), ys.max()] for ys, xs in map(np.nonzero, drawn.masks)]
            prediction = predictor.predict(boxes=boxes)
            ious.extend(mask_iou(a, b) for a, b in zip(prediction.masks, drawn.masks, strict=True))
    assert np.mean(ious) > 0.55
