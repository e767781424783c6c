"""An image encoder is one module and one line: it gets all that the two of this package have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families.journey import Journey

import samedge
from samedge.errors import UnknownArchitectureError
from samedge.families import PLUGINS
from samedge.models.load import load_any


class TestToyEncoder(Journey):
    plugin = "families.toy_encoder:ENCODER"
    source = "toy_sam"
    everything = ("--points-per-side", 4, "--pred-iou-thresh", 0, "--stability-score-thresh", 0)

    def test_load(self, bundle: Path) -> None:
        with samedge.load(bundle, "onnxruntime") as predictor:
            predictor.set_image(np.zeros((60, 80, 3), np.uint8))
            assert predictor.predict(boxes=[10, 10, 40, 40]).masks.shape == (1, 60, 80)
            assert predictor.info.model.name == "toy_sam"

    def test_without_its_line_it_is_not_known(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(PLUGINS)
        with pytest.raises(UnknownArchitectureError):
            load_any(checkpoint)
