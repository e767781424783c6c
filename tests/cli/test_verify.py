"""``samedge verify``: the verdict of this machine, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.boards import Board, overflown
from support.bundles import write_small_bundle
from support.exported import exported_bundle
from support.program import Program

from samedge.bundle.archive import open_bundle
from samedge.bundle.engines import bundle_pairs
from samedge.export.engines.build import build_engines
from samedge.parity import verify as verifying


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return exported_bundle(tmp_path / "tiny")


def test_a_bundle_is_verified_on_a_backend(program: Program, bundle: Path) -> None:
    done = program("verify", bundle, "--backend", "onnxruntime", "--device", "cpu", "--threads", "1")
    assert done.status == 0
    assert "parity: passed (onnxruntime cpu)" in done.out
    assert "image 5 of 5" in done.err
    record = json.loads(program("verify", bundle, "--backend", "onnxruntime", "--json").out)
    assert (record["verdict"], len(record["rows"])) == ("passed", 25)


def test_engines_are_verified_and_the_verdict_is_kept(
    program: Program, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(monkeypatch)
    build_engines(board.serve(bundle))
    monkeypatch.setattr(verifying, "open_engine", board.open_plan)
    assert program("verify", bundle, "--backend", "trt").status == 0
    board.wrong = {("decoder", "fp16"): overflown}  # a driver that was updated, say
    done = program("verify", bundle, "--backend", "tensorrt")
    assert (done.status, "parity: failed (fake cuda:0)" in done.out) == (1, True)
    assert f"error: {bundle}: on fake cuda:0 the masks differ from the checkpoint's" in done.err
    assert bundle_pairs(open_bundle(bundle))[0].verdict == "failed"


def test_what_cannot_be_verified_says_why(program: Program, bundle: Path, tmp_path: Path) -> None:
    assert "the bundle has no stored reference" in program("verify", write_small_bundle(tmp_path / "old")).err
    assert "unknown backend 'abacus'" in program("verify", bundle, "--backend", "abacus").err
    assert "tensorrt is not installed" in program("verify", bundle, "--backend", "tensorrt").err
