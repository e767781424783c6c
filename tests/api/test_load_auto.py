"""``samedge.load`` with ``backend="auto"``: measured once where there is a choice, and the decoder follows."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bundles import write_small_bundle

import samedge
from samedge.api.load import load
from samedge.engines import selection
from samedge.engines.registry import backends
from samedge.engines.selection import AUTO_VARIABLE
from samedge.engines.trials import Trial


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(AUTO_VARIABLE)
    if sum(one.available and ".onnx" in one.suffixes for one in backends()) < 2:
        pytest.skip("only one backend is installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_bundle(tmp_path / "small-samedge")


def prefer(monkeypatch: pytest.MonkeyPatch, backend: str) -> list[tuple[Trial, ...]]:
    """Makes a backend the fastest, whatever was measured; returns what was measured each time."""
    seen: list[tuple[Trial, ...]] = []

    def choose(trials: tuple[Trial, ...]) -> tuple[Trial, str]:
        seen.append(trials)
        return next(trial for trial in trials if trial.backend == backend), "it was told to be"

    monkeypatch.setattr(selection, "choose", choose)
    return seen


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_fastest_is_taken_for_all_graphs(backend: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = prefer(monkeypatch, backend)
    for _ in range(2):
        with load(folder, device="cpu", threads=1) as predictor:
            assert (predictor.backend, predictor.device) == (backend, "cpu")
    assert len(seen) == 1
    assert all(trial.usable for trial in seen[0])
    (decision,) = samedge.kept_decisions()
    assert decision.backend == backend
    assert decision.graph == "small.encoder.onnx"
    assert decision.question.sizes == {"height": 128, "width": 128}
    assert decision.question.device == "cpu"


def test_a_backend_that_was_named_is_not_measured(folder: Path) -> None:
    with load(folder, "onnxruntime") as predictor:
        assert predictor.backend == "onnxruntime"
    assert samedge.kept_decisions() == ()


def test_it_can_be_turned_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AUTO_VARIABLE, "first")
    with load(folder) as predictor:
        assert predictor.backend == "onnxruntime"
    assert samedge.kept_decisions() == ()
