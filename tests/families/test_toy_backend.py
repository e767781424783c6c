"""A backend is one module and one line: all that runs graphs runs on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from families.journey import Journey

import samedge
from samedge.engines.registry import backend_names
from samedge.errors import BackendUnavailableError, UsageError
from samedge.families import PLUGINS


class TestToyBackend(Journey):
    plugin = "families.toy_backend:BACKEND,families.toy_encoder:ENCODER"
    source = "toy_sam"
    backend = "toy"
    everything = ("--points-per-side", 4, "--pred-iou-thresh", 0, "--stability-score-thresh", 0)

    def test_load(self, bundle: Path) -> None:
        with samedge.load(bundle, "toy") as predictor:
            assert (predictor.backend, predictor.device) == ("toy", "cpu")

    def test_it_is_listed(self) -> None:
        assert backend_names()[-1] == "toy"
        assert "toy" in self.command("info", "--backends")

    def test_without_its_line_it_is_not_known(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PLUGINS, "families.toy_encoder:ENCODER")
        with pytest.raises(BackendUnavailableError, match="unknown backend 'toy'"):
            samedge.load(bundle, "toy")


def test_a_name_that_leads_nowhere_is_an_error_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS, "families.toy_backend:NOTHING")
    with pytest.raises(UsageError, match=r"there is no plug-in 'families.toy_backend:NOTHING'.*PYTHONPATH"):
        backend_names()
