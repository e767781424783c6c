"""Layers and their times in each backend that is here, and on fakes of TensorRT."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_tensorrt import VERSIONS, FakeTensorRt, write_graph
from support.onnx_graphs import write_onnx, zeros

from samedge.engines.layer_times import LayerProfile, LayerTime, median_layers, profile_layers
from samedge.engines.onnxruntime.layers import layers_of_runs
from samedge.engines.protocol import EngineOptions
from samedge.engines.tensorrt.build.builder import build_plan
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.engines.tensorrt.layers import ProfiledTensorRtEngine
from samedge.errors import BackendUnavailableError, EngineError, UsageError
from samedge.testing.cuda import FakeCuda
from samedge.types import Array


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_onnx(
        tmp_path / "mlp.onnx",
        [
            ("MatMul", ["x", "w1"], ["a"]),
            ("Add", ["a", "b1"], ["b"]),
            ("Relu", ["b"], ["c"]),
            ("MatMul", ["c", "w2"], ["d"]),
            ("Transpose", ["d"], ["y"], {"perm": [1, 0]}),
        ],
        {"x": ["rows", 64]},
        ["y"],
        {"w1": zeros(64, 128), "b1": zeros(128), "w2": zeros(128, 32)},
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
class TestCpuBackends:
    def test_layers(self, graph: Path, backend: str) -> None:
        pytest.importorskip(backend)
        found = profile_layers(graph, backend=backend, threads=1, sizes={"rows": 256}, runs=3)
        assert (found.backend, found.device, found.runs) == (backend, "cpu", 3)
        assert found.shapes == {"x": (256, 64)}
        assert found.layers
        assert found.layers_ms == pytest.approx(sum(layer.milliseconds for layer in found.layers))
        assert all(0 < layer.best <= layer.milliseconds for layer in found.layers if layer.milliseconds)
        assert sum(layer.operator in ("MatMul", "Gemm", "FusedGemm", "FullyConnected") for layer in found.layers) == 2
        sources = {source for layer in found.layers for source in layer.sources}
        assert any("MatMul_d" in source for source in sources)
        assert found.run_ms > 0

    def test_nothing_is_left_behind(
        self, graph: Path, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip(backend)
        folder = tmp_path / "temporary"
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        monkeypatch.chdir(folder)
        profile_layers(graph, backend=backend, threads=1, runs=1)
        with pytest.raises(EngineError):
            profile_layers(graph, backend=backend, threads=1, runs=1, feeds={"x": np.zeros((2, 64, 1), np.float32)})
        (folder.parent / "bad.onnx").write_bytes(b"no graph")
        with pytest.raises(EngineError):
            profile_layers(folder.parent / "bad.onnx", backend=backend, threads=1)
        assert not list(folder.iterdir())


def event(name: str, ts: int, dur: int, **facts: Any) -> dict[str, Any]:
    return {"cat": "Node" if facts else "Session", "name": name, "ts": ts, "dur": dur, "args": facts}


def test_events_of_onnxruntime() -> None:
    shapes = {"input_type_shape": [{"float": [4, 8]}, {"int64": [2]}], "output_type_shape": [{"float16": [4, 8]}]}

    def kernel(name: str, ts: int, dur: int, operator: str) -> dict[str, Any]:
        return event(f"{name}_kernel_time", ts, dur, op_name=operator, provider="CPUExecutionProvider", **shapes)

    events = [
        event("session_initialization", 0, 50),
        event("model_run", 100, 50),
        kernel("/a/MatMul", 110, 20, "MatMul"),
        kernel("fused /b/Gemm", 130, 10, "FusedGemm"),
        event("model_run", 200, 60),
        kernel("/a/MatMul", 210, 30, "MatMul"),
        kernel("fused /b/Gemm", 240, 12, "FusedGemm"),
        event("/a/MatMul_fence_before", 205, 1, op_name="MatMul"),
    ]
    first, second = layers_of_runs(events)
    assert [(layer.name, layer.sources, layer.milliseconds) for layer in first] == [
        ("/a/MatMul", ("/a/MatMul",), 0.02),
        ("fused /b/Gemm", ("/b/Gemm",), 0.01),
    ]
    assert first[0].nbytes == 4 * 8 * 4 + 2 * 8 + 4 * 8 * 2
    assert [layer.milliseconds for layer in median_layers([first, second])] == pytest.approx([0.025, 0.011])
    assert [layer.best for layer in median_layers([first, second])] == pytest.approx([0.02, 0.01])


def test_a_profile_that_cannot_be_read(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")

    def damaged(_: Any) -> None:
        raise json.JSONDecodeError("cut off", "", 0)

    monkeypatch.setattr("samedge.engines.onnxruntime.layers.json.loads", damaged)
    with pytest.raises(EngineError, match="profile cannot be read"):
        profile_layers(graph, backend="onnxruntime", threads=1)


def test_runs_that_differ() -> None:
    with pytest.raises(EngineError, match="different layers"):
        median_layers([[LayerTime("a", "Add", 1.0)], [LayerTime("b", "Add", 1.0)]])
    with pytest.raises(EngineError):
        median_layers([])


@pytest.mark.parametrize(
    ("options", "error"),
    [({"runs": 0}, UsageError), ({"warm_ups": -1}, UsageError), ({"backend": "nonsense"}, BackendUnavailableError)],
)
def test_what_means_nothing(graph: Path, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        profile_layers(graph, **{"backend": "onnxruntime", **options})
    with pytest.raises(EngineError, match="graph file not found"):
        profile_layers(graph.with_name("none.onnx"), backend="onnxruntime")


DETAILED = [
    {
        "Name": "/blocks.0/qkv/MatMul_myl0_1",
        "LayerType": "gemm",
        "TacticName": "sm80_xmma_gemm_f16f16",
        "Metadata": "[ONNX Layer: /blocks.0/qkv/MatMul]\x1e[ONNX Layer: /blocks.0/qkv/Add]",
    },
    {"Name": "Reformatting CopyNode for Input Tensor 0 to /blocks.0/qkv/MatMul", "LayerType": "Reformat"},
]
TIMES = [
    ("/blocks.0/qkv/MatMul_myl0_1", 0.5),
    ("Reformatting CopyNode for Input Tensor 0 to /blocks.0/qkv/MatMul", 0.1),
    ("/a/Conv + /a/Relu", 0.25),
    ("{ForeignNode[/x.../y]}", 0.25),
]


@pytest.mark.parametrize("described", [DETAILED, [name for name, _ in TIMES]], ids=["detailed", "names"])
@pytest.mark.parametrize("generation", VERSIONS)
class TestTensorRt:
    def profile(self, folder: Path, generation: str, described: list[Any]) -> tuple[LayerProfile, FakeTensorRt]:
        def double(feeds: dict[str, Array]) -> Mapping[str, Array]:
            return {"y": feeds["x"] * 2}

        cuda = FakeCuda()
        trt = FakeTensorRt(generation, cuda=cuda, program=double)
        source = write_graph(folder / "a.onnx", {"x": ("float32", [2, 3])}, {"y": ("float32", [2, 3])})
        plan, _ = build_plan(trt.flavour, source, BuildOptions())
        (folder / "a.engine").write_bytes(plan)
        trt.layers, trt.described = TIMES, described

        def opener(path: Path, options: EngineOptions) -> ProfiledTensorRtEngine:
            return ProfiledTensorRtEngine(path, options, flavour=trt.flavour, memory=cuda)

        found = profile_layers(folder / "a.engine", backend="tensorrt", runs=3, opener=opener)
        return found, trt

    def test_layers(self, tmp_path: Path, generation: str, described: list[Any]) -> None:
        found, trt = self.profile(tmp_path, generation, described)
        assert [(layer.name, layer.milliseconds) for layer in found.layers] == TIMES
        assert found.layers_ms == pytest.approx(1.1)
        assert found.device == "cuda:0"
        assert len(trt.called("execute_async_v3")) == 5, "every run is executed: none comes from a captured graph"
        gemm, copy, convolution, foreign = found.layers
        assert convolution.sources == ("/a/Conv", "/a/Relu")
        assert (foreign.operator, foreign.sources) == ("ForeignNode", ())
        assert convolution.operator == "Conv"
        if described is DETAILED:
            assert gemm.sources == ("/blocks.0/qkv/MatMul", "/blocks.0/qkv/Add")
            assert (gemm.operator, gemm.kernel) == ("gemm", "sm80_xmma_gemm_f16f16")
            assert copy.operator == "Reformat"
        else:
            assert gemm.sources == ("/blocks.0/qkv/MatMul_myl0_1",)
            assert copy.operator == "Reformatting"


def test_the_real_listener_can_be_made() -> None:
    """The class of the real package: calls arrive at ours."""
    pytest.importorskip("tensorrt_rtx")
    from samedge.engines.tensorrt.api import find_flavour
    from samedge.engines.tensorrt.layers import _profiler

    told: list[tuple[str, float]] = []
    listener = _profiler(find_flavour("tensorrt-rtx"), lambda name, ms: told.append((name, ms)))
    listener.report_layer_time("a", 0.5)
    assert told == [("a", 0.5)]
