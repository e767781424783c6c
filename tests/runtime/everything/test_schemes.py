"""Whole or split, in every I/O scheme: the same masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import write_small_bundle
from support.generators import mask_ious

from samedge.api.load import load
from samedge.runtime.everything.found import FoundMasks
from samedge.types import IOScheme

# Seeded weights draw noise, whose boxes are all alike: all masks are drawn and stay.
ALL: dict[str, Any] = {
    "points_per_side": 4,
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0,
}


def everything(folder: Path, io: IOScheme, mode: Any = "exact") -> FoundMasks:
    rng = np.random.default_rng(0)
    bgr = np.repeat(np.repeat(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), 10, axis=0), 10, axis=1)
    with load(write_small_bundle(folder / f"{io}-{mode}", io), threads=1, force=True) as predictor:
        return predictor.everything(bgr, **ALL, mode=mode)


@pytest.mark.parametrize("io", ["meta", "samexporter"])
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_the_same_masks(tmp_path: Path, io: IOScheme, mode: str) -> None:
    native, other = everything(tmp_path, "native", mode), everything(tmp_path, io, mode)
    assert len(native) == len(other) > 30
    assert native.statistics.decoder_prompts == other.statistics.decoder_prompts
    ious = mask_ious(list(native.iter_masks()), list(other.iter_masks()))
    assert ious.max(axis=0).min() >= 0.99
    assert ious.max(axis=1).min() >= 0.99
