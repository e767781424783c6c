"""What graph files say of themselves: ONNX files and engines with Ultralytics' header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.yolo_models import SMALL, bundle

from samedge.bundle.archive import open_bundle
from samedge.errors import EngineError
from samedge.runtime.yolo.graph import describe_yolo
from samedge.runtime.yolo.metadata import read_graph_metadata
from samedge.testing.engine import fake_engine
from samedge.types import TensorSpec

F32 = np.dtype(np.float32)
PLAN = b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + b"plan"
THEIRS: dict[str, Any] = {
    "description": "Ultralytics YOLOv8n-seg model",
    "author": "Ultralytics",
    "version": "8.4.190",
    "stride": 32,
    "task": "segment",
    "batch": 1,
    "imgsz": [320, 416],
    "names": {"0": "person", "1": "bi'cycle"},
    "args": {"batch": 1, "half": True, "nms": False, "dynamic": False},
}


def write_engine(path: Path, header: dict[str, Any] | None) -> Path:
    """An engine file: a plan, with the JSON that Ultralytics puts before it."""
    text = b"" if header is None else json.dumps(header).encode()
    path.write_bytes((len(text).to_bytes(4, "little") + text if text else b"") + PLAN)
    return path


@pytest.mark.parametrize("suffix", [".engine", ".plan"])
def test_the_header_of_an_engine(tmp_path: Path, suffix: str) -> None:
    told = read_graph_metadata(write_engine(tmp_path / f"a{suffix}", THEIRS))
    outputs = {"output0": TensorSpec((1, 38, 2730), F32), "output1": TensorSpec((1, 32, 80, 104), F32)}
    engine = fake_engine({"images": TensorSpec((1, 3, 320, 416), F32)}, outputs, lambda _: {})
    graph = describe_yolo(engine, told)
    assert graph.names == {0: "person", 1: "bi'cycle"}
    assert (graph.image_size, graph.stride, graph.task, graph.batch) == ((320, 416), 32, "segment", 1)
    assert not graph.suppressed


def test_suppression_is_told_by_the_header(tmp_path: Path) -> None:
    """The shape alone would not tell: 6 rows of 6 columns could be anchors as well."""
    header = THEIRS | {"task": "detect", "args": {"nms": True}}
    told = read_graph_metadata(write_engine(tmp_path / "a.engine", header))
    engine = fake_engine(
        {"images": TensorSpec((1, 3, 320, 416), F32)}, {"output0": TensorSpec((1, 6, 6), F32)}, lambda _: {}
    )
    assert describe_yolo(engine, told).suppressed
    assert not describe_yolo(engine, {}).suppressed


@pytest.mark.parametrize("task", ["pose", "classify", "obb"])
def test_another_task_is_refused_by_its_header(tmp_path: Path, task: str) -> None:
    told = read_graph_metadata(write_engine(tmp_path / "a.engine", THEIRS | {"task": task}))
    engine = fake_engine(
        {"images": TensorSpec((1, 3, 320, 416), F32)}, {"output0": TensorSpec((1, 56, 9), F32)}, lambda _: {}
    )
    with pytest.raises(EngineError, match=task):
        describe_yolo(engine, told)


def test_raw_plans_and_other_files_say_nothing(tmp_path: Path) -> None:
    assert read_graph_metadata(write_engine(tmp_path / "a.engine", None)) == {}
    assert read_graph_metadata(tmp_path / "a.xml") == {}


def test_what_is_no_plan(tmp_path: Path) -> None:
    (tmp_path / "a.engine").write_bytes(b"no plan at all, and none behind it")
    with pytest.raises(EngineError):
        read_graph_metadata(tmp_path / "a.engine")


def test_an_onnx_file() -> None:
    told = read_graph_metadata(open_bundle(bundle(SMALL)).graph_path("yolo"))
    assert (told["task"], told["author"]) == ("segment", "samedge")
