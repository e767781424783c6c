"""Checkpoints with another number of masks than SAM's four: exported, proved and run with all of theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import samedge
from samedge.bundle.archive import bundle_manifest
from samedge.models.sam.configs import SMALL_VIT, DecoderConfig, SamConfig
from samedge.models.sam.load import load_model
from samedge.models.sam.seeded import seeded_state


@pytest.mark.parametrize("multimasks", [1, 2, 5])
def test_any_number_of_masks(tmp_path: Path, multimasks: int) -> None:
    path = tmp_path / "tune.pt"
    config = SamConfig(SMALL_VIT.encoder, DecoderConfig(num_mask_tokens=multimasks + 1))
    torch.save(seeded_state(config), path)
    bundle = samedge.export_model(path, output=tmp_path / "bundle")
    assert bundle_manifest(bundle).parity.verdict == "passed"
    image = np.random.default_rng(3).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    sam = load_model(path).model
    with samedge.load(bundle, "onnxruntime") as predictor:
        predictor.set_image(image)
        for points in ([60, 40], [[20, 30], [60, 40], [90, 70]]):
            found = predictor.predict(points, multimask=True)
            count = 1 if isinstance(points[0], int) else len(points)
            assert found.masks.shape == (count * multimasks, 90, 120)
            assert found.mask_index.tolist() == list(range(1, multimasks + 1)) * count
        assert predictor.predict([60, 40]).masks.shape == (1, 90, 120)
        assert len(predictor.predict([60, 40], multimask=True).scores) == multimasks
        many = predictor.predict([[list(point) for point in np.full((24, 2), 50)]], multimask=True)  # the whole decoder
        assert len(many.scores) == multimasks
        assert len(predictor.everything(points_per_side=3, pred_iou_thresh=0.0, stability_score_thresh=0.0)) > 0
    assert sam.mask_decoder.num_mask_tokens == multimasks + 1
