"""``samedge info FILE.engine``: ours, Ultralytics', and others', told apart without opening them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from support.boards import Board
from support.fake_tensorrt import FakeTensorRt
from support.program import Program

from samedge.bundle import engine_file
from samedge.engines.protocol import Engine
from samedge.testing.engine import fake_engine
from samedge.types import Array, TensorSpec

F32 = np.dtype(np.float32)
NANOSAM: tuple[dict[str, TensorSpec], dict[str, TensorSpec]] = (
    {"image": TensorSpec((1, 3, 1024, 1024), F32)},
    {"image_embeddings": TensorSpec((1, 256, 64, 64), F32)},
)


def write_engine(path: Path, header: Mapping[str, object] | None = None, generation: str = "10.3") -> Path:
    text = b"" if header is None else json.dumps(header).encode()
    before = b"" if header is None else len(text).to_bytes(4, "little") + text
    path.write_bytes(before + FakeTensorRt(generation).plan({}))
    return path


def test_an_engine_of_ultralytics_is_known_by_its_header(program: Program, tmp_path: Path) -> None:
    header = {"description": "Ultralytics FastSAM-s", "task": "segment", "imgsz": [640, 640], "names": {"0": "object"}}
    path = write_engine(tmp_path / "FastSAM-s.engine", header)
    text = program("info", path).out
    for part in ("tensorrt 10.3.0.26", "Ultralytics", "task: segment", "imgsz: [640, 640]", "--open"):
        assert part in text
    document = json.loads(program("info", path, "--json").out)
    assert (document["producer"], document["header"], document["inputs"]) == ("Ultralytics", header, None)


@pytest.mark.parametrize(
    ("generation", "version", "flavour"),
    [("8.6", "8.6.1.6", "tensorrt"), ("11", "11.4.0.106", "tensorrt"), ("rtx", "1.7.1.116", "tensorrt-rtx")],
)
def test_the_version_is_read_from_the_plan(
    program: Program, tmp_path: Path, generation: str, version: str, flavour: str
) -> None:
    path = write_engine(tmp_path / "x.plan", generation=generation)
    document = json.loads(program("info", path, "--json").out)
    assert (document["flavour"], document["version"], document["producer"]) == (flavour, version, "unknown")


def test_an_engine_of_another_tool_is_known_by_its_names_once_it_is_opened(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Board(monkeypatch)
    opened: list[tuple[Path, str]] = []

    def run(feeds: dict[str, Array]) -> dict[str, Array]:
        raise AssertionError

    def open_engine(path: Path, *, backend: str) -> Engine:
        opened.append((path, backend))
        return fake_engine(*NANOSAM, run)

    monkeypatch.setattr(engine_file, "open_engine", open_engine)
    path = write_engine(tmp_path / "resnet18_image_encoder.engine")
    assert "nanosam" not in program("info", path).out
    assert opened == []
    text = program("info", path, "--open").out
    assert opened == [(path, "tensorrt")]
    for part in ("encoder (samedge, nanosam or EdgeSAM)", "image_embeddings", "1 × 256 × 64 × 64"):
        assert part in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(60), "not a TensorRT plan"),
        (b"ftrt", "this plan is truncated"),
        (b"\x05\x00\x00\x00{oops" + bytes(60), "the header of this engine file is damaged"),
    ],
)
def test_what_is_no_engine(program: Program, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(content)
    done = program("info", path)
    assert (done.status, done.out) == (1, "")
    assert message in done.err


def test_an_engine_is_no_model(program: Program, tmp_path: Path, photo: Path) -> None:
    path = write_engine(tmp_path / "encoder.engine")
    done = program("predict", path, photo, "--point", "1,1")
    assert done.status == 1
    assert "this is a single TensorRT engine, not the bundle that it was built from" in done.err
    assert "for an engine of another tool, export the checkpoint: samedge export CHECKPOINT" in done.err
    assert "samedge info encoder.engine" in done.err
    assert "cannot read this: No such file" in program("info", tmp_path / "none.engine").err
