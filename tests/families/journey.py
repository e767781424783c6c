"""A plug-in's journey, without another change: export, predict, everything, verify, info, profile, bench."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import samedge
from samedge.bundle.archive import bundle_manifest
from samedge.cli.app import run
from samedge.families import PLUGINS
from samedge.models.checkpoints.weights import SEEDED

ROOT = Path(__file__).parents[2]


class Journey:
    """The tests; a class that inherits them names its plug-in, which is the one line that registers it.

    Attributes:
        plugin: "module:NAME" of the record.
        source: A name of random weights, which are written as a checkpoint.
        backend: What runs the graphs.
    """

    plugin = ""
    source = ""
    backend = "onnxruntime"

    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PLUGINS, self.plugin)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))

    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        path = tmp_path / "image.png"
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
        return path

    def command(self, *arguments: object) -> str:
        """Run the program and return what it wrote to stdout."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            status = run([str(argument) for argument in arguments])
        assert status == 0, out.getvalue()
        return out.getvalue()

    def test_export_proves_the_graphs(self, bundle: Path) -> None:
        parity = bundle_manifest(bundle).parity
        assert parity.verdict == "passed"
        assert parity.mask_iou_min > 0.99
        assert parity.rows

    def test_random_weights_have_names_too(self, tmp_path: Path) -> None:
        path = samedge.export_model(f"{SEEDED}{self.source}", output=tmp_path / "seeded", check=False)
        assert bundle_manifest(path).model.seeded

    def test_verify(self, bundle: Path) -> None:
        assert samedge.verify_bundle(bundle, backend=self.backend).verdict == "passed"
        assert json.loads(self.command("verify", bundle, "--backend", self.backend, "--json"))["verdict"] == "passed"

    def test_predict(self, bundle: Path, image: Path) -> None:
        found = json.loads(self.predicted(bundle, image, "--point", "40,30"))
        assert found["backend"] == self.backend
        assert found["images"][0]["objects"]

    def test_everything(self, bundle: Path, image: Path) -> None:
        assert json.loads(self.predicted(bundle, image, *self.everything))["images"][0]["objects"]

    everything: tuple[object, ...] = ()

    def predicted(self, bundle: Path, image: Path, *options: object) -> str:
        return self.command("predict", bundle, image, "--backend", self.backend, "--json", "-", *options)

    def test_info(self, bundle: Path, checkpoint: Path) -> None:
        record = bundle_manifest(bundle).model
        assert record.name in self.command("info", bundle)
        assert json.loads(self.command("info", checkpoint, "--json"))["model"]["parameters"] == record.parameters

    def test_profile(self, bundle: Path) -> None:
        told = self.command(
            "profile", bundle, "--backend", self.backend, "--threads", 1, "--runs", 1, "--no-roof", "--format", "json"
        )
        profile = json.loads(told)
        assert profile["graph"] == bundle_manifest(bundle).model_family.main
        assert profile["layers"]
        assert profile["gflop"] == pytest.approx(profile["expected_gflop"], rel=0.2)

    def test_bench(self, bundle: Path, image: Path, tmp_path: Path) -> None:
        self.command(
            "bench", bundle, "--image", image, "--rounds", 1, "--warmup", 0, "--everything-rounds", 1,
            "--everything-points", 4, "--threads", 1, "--backend", self.backend, "-o", tmp_path / "out",
        )  # fmt: skip
        row: dict[str, Any] = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"][0]
        assert not row["skipped"]
        assert row["verdict"] == "passed"
        assert {"preprocess", "encode", "prompt", "boxes", "everything"} <= row["stages"].keys()
