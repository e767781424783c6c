"""``samedge export --format rtx``, ``build``, ``verify``, ``info`` and ``engines`` with a YOLO."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from support.boards import Board, overflown
from support.program import Program
from support.yolo_models import bundle

from samedge.bundle.archive import bundle_manifest
from samedge.engines.protocol import Availability
from samedge.engines.registry import availability
from samedge.engines.tensorrt.store import builds as stored_builds
from samedge.export.engines.build import build_engines
from samedge.parity import yolo_verify


def test_a_segmenter_becomes_an_engine_in_one_command(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real exporter, the real float16, and the real builder of TensorRT for RTX, which needs no GPU."""
    pytest.importorskip("tensorrt_rtx")
    target = tmp_path / "n"
    options = ("--image-size", "160", "--format", "rtx", "--targets", "8.6")
    done = program("export", "seeded:yolov8n-seg", *options, "-o", target)
    assert (done.status, done.out) == (0, f"{target}\n")
    graph = bundle_manifest(target).graph("yolo")
    assert (graph.precision, graph.inputs["images"].shape) == ("fp32", ("batch", 3, "height", "width"))
    assert "parity: passed (onnxruntime cpu)" in done.err
    assert "for sm86: yolo fp16; boxes and masks unchecked" in done.err
    assert "will be checked on the device" in done.err

    engine = tmp_path / "n-engines" / "yolo.tensorrt-rtx.sm86.engine"
    shown = json.loads(program("info", engine, "--json").out)
    assert shown["key"]["profiles"] == {"batch": "1/1/4", "height": "32/160/1280", "width": "32/160/1280"}
    assert (shown["key"]["precision"], shown["key"]["targets"]) == ("fp16", ["sm86"])
    assert shown["inputs"]["images"] == {"dtype": "float32", "shape": ["batch", 3, "height", "width"]}
    assert shown["outputs"]["output0"] == {"dtype": "float32", "shape": ["batch", 116, "anchors"]}
    # float16 weights: about half of the graph's 13.6 MB.
    sidecar = json.loads(engine.with_name(f"{engine.name}.json").read_text())
    assert 6e6 < sidecar["report"]["weight_bytes"] < 7.5e6
    assert shown["notes"]["samedge"]["rung"] == "fp16"

    text = program("info", target).out
    assert "yolo" in text
    assert "tensorrt-rtx 1." in text
    assert "unchecked" in text
    ((listed,),) = json.loads(program("engines", "ls", "--format", "json").out).values()
    assert (listed["graph"], listed["precision"], listed["verdict"]) == ("yolov8n-seg yolo", "fp16", "unchecked")

    # The same by its own command is the same engine, and another range is another one; nothing was opened.
    monkeypatch.setattr(stored_builds, "build_in_child", None)
    again = program("build", target, "--flavour", "rtx", "--targets", "8.6")
    assert (again.status, again.out) == (0, f"{engine}\n")
    loaded = program("predict", target, target / "none.jpg", "--backend", "rtx")
    assert loaded.status == 1
    assert "Traceback" not in loaded.err


def test_what_was_tried_and_the_verdict(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch)
    board.wrong = {("yolo", "fp16"): overflown}
    options = ("--batch", "1/2/2", "--height", "64/128/128", "--width", "64/128/128")
    done = program("build", board.serve(bundle()), "-o", tmp_path / "out", *options)
    assert (done.status, done.out) == (0, f"{tmp_path / 'out' / 'yolo.tensorrt.orin-nvgpu-sm87.engine'}\n")
    assert "parity: passed (fake cuda:0, as onnxruntime cpu)" in done.err
    assert "box error 0.0e+00 px over 5 images" in done.err
    assert "yolo fp32; boxes and masks passed" in done.err
    assert "tried fp16: failed, boxes off by up to 3.4e+38 px" in done.err
    assert {name: str(sizes) for name, sizes in board.options[0].profiles.items()}["height"] == "64/128/128"
    assert "--height" in program("build", "--help").out


def test_options_of_a_yolo_mean_nothing_for_a_sam(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.bundles import write_small_bundle

    Board(monkeypatch)
    done = program("build", write_small_bundle(tmp_path / "sam"), "--batch", "1")
    assert (done.status, done.out) == (1, "")
    assert "--batch: not supported for a SAM. Omit it" in done.err


def test_verify(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = program("verify", bundle(), "--backend", "openvino") if availability("openvino").ok else None
    if done is not None:
        assert (done.status, "parity: passed (openvino cpu, as onnxruntime cpu)" in done.out) == (0, True)
        assert "Comparing with the bundle's graph: image 5 of 5" in done.err
    board = Board(monkeypatch)
    build_engines(board.serve(bundle()), output=tmp_path / "out")
    record = json.loads(program("verify", bundle(), "--backend", "trt", "--json").out)
    assert (record["verdict"], record["thresholds"]["box_error_max"]) == ("passed", 1.0)
    board.wrong = {("yolo", "fp16"): overflown}
    done = program("verify", bundle(), "--backend", "trt")
    assert (done.status, "parity: failed" in done.out) == (1, True)
    assert "on fake cuda:0, as onnxruntime cpu" in done.err.splitlines()[-1]
    missing = partial(Availability, False, "it is not installed")
    monkeypatch.setattr(yolo_verify, "availability", lambda _name: missing())
    done = program("verify", bundle(), "--backend", "onnxruntime")
    assert (done.status, done.out) == (1, "")
    assert "this cannot be verified: no other backend is installed" in done.err.splitlines()[-1]
