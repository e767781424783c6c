"""Running the program inside the tests' process, with a model that draws its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.program import Outcome, Program

from samedge.api import sam as api
from samedge.cli.app import run
from samedge.runtime.predictor import Predictor
from samedge.testing.predictor import fake_predictor


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Program:
    """The program as ``samedge`` runs it: errors become lines and a status."""

    def call(*arguments: object) -> Outcome:
        status = run([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    return call


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle's place at which a predictor is opened that draws its prompts, at 256 px."""

    def load(bundle: Path, **_: Any) -> Predictor:
        return fake_predictor(image_size=256)

    monkeypatch.setattr(api, "load", load)
    folder = tmp_path / "fake-samedge"
    folder.mkdir()
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image of 256 columns and 192 rows."""
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8))
    return path
