"""Artefacts are made once, and again when something that they depend on is another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samedge.benchmarks.measure import artefacts as module
from samedge.benchmarks.measure.artefacts import Artefacts, graph_bytes, source_digest, versions_of, weights_id
from samedge.errors import BenchmarkError, SamedgeError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What children were asked to make; they write one small file."""
    made: list[dict[str, Any]] = []

    def call(target: str, arguments: dict[str, Any]) -> None:
        made.append({"target": target, **arguments})
        np.save(Path(arguments["folder"]) / "image.npy", np.zeros(3))
        (Path(arguments["folder"]) / "encoder.onnx").write_bytes(b"12345")

    monkeypatch.setattr(module, "call_in_child", call)
    return made


def test_they_are_made_once(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    said: list[str] = []
    artefacts = Artefacts(tmp_path, said.append)
    first = artefacts.plain_encoder("seeded:sam_vit_tiny", 128)
    assert artefacts.plain_encoder("seeded:sam_vit_tiny", 128) == first
    assert [call["target"].partition(":")[2] for call in calls] == ["write_encoder_input", "write_plain_encoder"]
    assert said == ["Making input 128", "Making plain encoder seeded sam_vit_tiny"]
    assert graph_bytes(first) == 5  # the array beside the graph is not part of it
    assert artefacts.plain_encoder("seeded:sam_vit_b", 128) != first
    assert first.is_dir()


def test_other_versions_take_the_place_of_old_ones(
    tmp_path: Path, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    artefacts = Artefacts(tmp_path)
    old = artefacts.meta_decoder("seeded:sam_vit_tiny")
    monkeypatch.setattr(module, "versions_of", lambda *_: {"torch": "99"})
    new = artefacts.meta_decoder("seeded:sam_vit_tiny")
    assert (old != new, old.exists(), new.is_dir()) == (True, False, True)
    assert len(calls) == 2


def test_bundles_differ_by_all_that_they_are_made_with(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    artefacts, source = Artefacts(tmp_path), "seeded:sam_vit_tiny"
    bundles = {
        artefacts.bundle(source),
        artefacts.bundle(source, form="mask"),
        artefacts.bundle(source, precision="int8"),
        artefacts.bundle(source, precision="int8", calibrated=True),
    }
    assert len(bundles) == len(calls) == 4
    assert [call["calibration"] is not None for call in calls] == [False, False, False, True]
    assert {path.name for path in bundles} == {"bundle"}


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(target: str, arguments: dict[str, Any]) -> None:
        (Path(arguments["folder"]) / "half.onnx").touch()
        raise BenchmarkError("no")

    monkeypatch.setattr(module, "call_in_child", fail)
    with pytest.raises(BenchmarkError):
        Artefacts(tmp_path).meta_decoder("seeded:sam_vit_tiny")
    assert list(tmp_path.rglob("*.onnx")) == []


def test_what_tells_weights_and_versions_from_others(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"a")
    (tmp_path / "b.pt").write_bytes(b"a")
    assert weights_id(str(tmp_path / "a.pt")) == weights_id(str(tmp_path / "b.pt"))
    assert weights_id("seeded:sam_vit_b") == "seeded:sam_vit_b"
    with pytest.raises(SamedgeError):
        weights_id(str(tmp_path / "none.pt"))
    assert list(versions_of("numpy", "no-such-package")) == ["numpy"]
    assert source_digest("models/**/*.py") != source_digest("models/sam/sam.py")


def test_a_pattern_that_matches_no_source_is_refused() -> None:
    with pytest.raises(BenchmarkError, match=r"no source file matches 'runtime/manifest\.py'"):
        source_digest("models/**/*.py", "runtime/manifest.py")
    for patterns in (module._SEEDS, module._SEEDED_STATES, module._EXPORTER):
        assert source_digest(*patterns)
