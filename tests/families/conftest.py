"""Fixtures that the tests of a class of `journey.Journey` share: a checkpoint, and the bundle made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families.journey import Journey

import samedge
from samedge.families import PLUGINS
from samedge.models.load import seeded_loader


@pytest.fixture(scope="class")
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    journey: type[Journey] = request.cls
    path = tmp_path_factory.mktemp("checkpoint") / f"{journey.source}.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLUGINS, journey.plugin)
        torch.save(dict(seeded_loader(journey.source).seeded_state(journey.source)), path)
    return path


@pytest.fixture(scope="class")
def bundle(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    journey: type[Journey] = request.cls
    target = tmp_path_factory.mktemp("bundle") / "exported"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLUGINS, journey.plugin)
        return samedge.export_model(checkpoint, output=target)
