"""A family is one module and one line: it gets all that SAM and YOLO have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.journey import Journey
from families.toy_family import WIDTH, ToyOptions

import samedge
from samedge.bundle.archive import bundle_manifest
from samedge.errors import BundleError, UsageError
from samedge.families import PLUGINS
from samedge.options import ExportOptions


class TestToyFamily(Journey):
    plugin = "families.toy_family:FAMILY"
    source = "toy"

    def test_load(self, bundle: Path) -> None:
        with samedge.load(bundle, "onnxruntime", kind="toy") as predictor:
            results = predictor.predict(np.full((60, 80, 3), 9, np.uint8), conf=None)
        assert 0 < len(results) <= WIDTH
        assert results.masks is not None
        assert np.shape(results.masks.data)[1:] == (60, 80)

    def test_its_bundle_is_not_taken_for_another(self, bundle: Path) -> None:
        with pytest.raises(BundleError, match="this is the bundle of a toy"):
            samedge.SAM(bundle).predictor  # noqa: B018

    def test_its_own_options(self, checkpoint: Path, tmp_path: Path) -> None:
        keywords: dict[str, Any] = {"toy_threshold": 0.5, "opset": 18}
        options = ExportOptions().updated(**keywords)
        assert options == ExportOptions(opset=18, extras=(ToyOptions(0.5),))
        keywords = {"toy_threshold": 0.25}
        assert options.updated(**keywords).part(ToyOptions) == ToyOptions(0.25)
        assert ExportOptions().part(ToyOptions) == ToyOptions()
        path = samedge.export_model(checkpoint, output=tmp_path / "x", options=options)
        manifest = bundle_manifest(path)
        assert (manifest.input.mask_threshold, manifest.parity.verdict) == (0.5, "passed")

    def test_its_options_are_unknown_without_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        keywords: dict[str, Any] = {"toy_threshold": 0.5}
        ExportOptions().updated(**keywords)
        monkeypatch.delenv(PLUGINS)
        with pytest.raises(TypeError, match="unexpected keyword argument 'toy_threshold'"):
            ExportOptions().updated(**keywords)

    def test_options_of_others_are_refused(self, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="not supported for a toy"):
            samedge.export_model(checkpoint, output=tmp_path / "x", nms=True)
        with pytest.raises(UsageError, match="exported in fp32, not fp16"):
            samedge.export_model(checkpoint, output=tmp_path / "x", precision="fp16")

    def test_without_its_line_the_bundle_says_what_is_missing(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(PLUGINS)
        with pytest.raises(BundleError, match="there is no family 'toy' here"):
            bundle_manifest(bundle)
