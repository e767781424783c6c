"""``samedge demo``: from a checkpoint to overlays, and what it does without a network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.program import Program

from samedge.cli import demo
from samedge.models.checkpoints import weights

TINY = "seeded:sam_vit_tiny"


def test_the_whole_way(program: Program, tmp_path: Path) -> None:
    done = program("demo", TINY, "--output", tmp_path / "demo")
    assert done.status == 0, done.err
    assert "parity: passed" in done.out
    picture = cv2.imread(str(demo.COFFEE.path))
    assert picture is not None
    for name in ("point", "box"):
        overlay = cv2.imread(str(tmp_path / "demo" / f"overlay-{name}.png"))
        assert overlay is not None
        assert overlay.shape == picture.shape
        assert np.any(overlay != picture)
        assert str(tmp_path / "demo" / f"overlay-{name}.png") in done.out
    assert (tmp_path / "demo" / "overlay-everything.png").is_file()
    assert "the masks mean nothing" in done.out


def test_without_a_network_and_without_weights_that_come_along(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMEDGE_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setitem(weights.BUNDLED_WEIGHTS, demo.SAM_DEMO, tmp_path / "none.safetensors")
    monkeypatch.setattr(demo, "SEEDED", TINY)
    done = program("demo")
    assert done.status == 0, done.err
    assert "mobile_sam.pt is not on this machine and could not be fetched" in done.out
    assert f"Continuing with {TINY}." in done.out
    assert "the masks mean nothing" in done.out
    assert (tmp_path / "demo" / "overlay-point.png").is_file()
