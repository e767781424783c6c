"""Engines by graph: built once, found again, copied to where a user wants them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fake_tensorrt import FakeTensorRt
from support.rtx_graphs import write_affine

from samedge.engines.cuda.memory import Gpu, no_driver
from samedge.engines.tensorrt.api import find_flavour
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.engines.tensorrt.plan_file import inspect_plan
from samedge.engines.tensorrt.store import builds as stored_builds
from samedge.engines.tensorrt.store.builds import copy_engine, engine_key, stored_engine
from samedge.engines.tensorrt.store.sidecar import read_sidecar, verify_plan
from samedge.engines.tensorrt.store.store import EngineStore
from samedge.errors import BackendUnavailableError, DeviceUnavailableError, EngineError, UsageError
from samedge.options import AxisRange
from samedge.testing.cuda import FakeCuda

AXES = {"x": ("batch", 4), "y": ("batch", 3)}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorrt_rtx")
    return write_affine(tmp_path_factory.mktemp("graphs") / "affine.onnx")


def test_an_engine_is_built_once_for_its_targets(graph: Path, tmp_path: Path) -> None:
    store = EngineStore(tmp_path / "engines")
    options = BuildOptions(targets=("8.6",))
    steps: list[str] = []

    def tell(step: str, _share: float) -> None:
        steps.append(step)

    first = stored_engine(
        graph, options, flavour="tensorrt-rtx", axes=AXES, store=store, notes={"rung": "fp32"}, progress=tell
    )
    assert "Built" in steps
    assert inspect_plan(first.plan).flavour == "tensorrt-rtx"
    assert first.sidecar.report.outputs["y"].shape == ("batch", 3)
    assert first.sidecar.notes == {"rung": "fp32"}
    steps.clear()
    again = stored_engine(graph, options, flavour="tensorrt-rtx", axes=AXES, store=store, progress=tell)
    assert (again.plan, steps) == (first.plan, [])
    wider = BuildOptions(targets=("8.6",), profiles={"batch": AxisRange(1, 1, 2)})
    key = engine_key(graph, wider, find_flavour("tensorrt-rtx"), None, axes=AXES)
    assert store.why(key) == ["profiles: batch is 1/1/2 here and 1/1/1 there"]

    copied = copy_engine(first, tmp_path / "bundle" / "affine.engine")
    sidecar = read_sidecar(copied)
    assert sidecar == first.sidecar
    verify_plan(copied, first.sidecar)


def test_a_build_that_is_cancelled_leaves_no_engine(graph: Path, tmp_path: Path) -> None:
    store = EngineStore(tmp_path / "engines")
    with pytest.raises(EngineError, match="cancelled"):
        stored_engine(
            graph, BuildOptions(targets=("8.6",)), flavour="tensorrt-rtx", store=store, cancelled=lambda: True
        )
    assert store.entries() == []
    assert [path.name for path in store.folder.iterdir()] == ["building.lock"]


def test_targets_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(UsageError, match="does not build for sm87"):
        stored_engine(tmp_path / "none.onnx", BuildOptions(targets=("8.7",)), flavour="tensorrt-rtx")


def test_tensorrt_that_is_not_installed_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samedge.engines.tensorrt.api.MODULES", {"tensorrt": "no_such_tensorrt"})
    with pytest.raises(BackendUnavailableError, match=r"pip install 'samedge\[trt\]'.*format 'rtx'"):
        stored_engine(tmp_path / "none.onnx", BuildOptions(), flavour="tensorrt")


def test_tensorrt_without_a_gpu_says_that_it_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: str | None = None) -> FakeCuda:
        raise no_driver("none here")

    monkeypatch.setattr(stored_builds, "find_flavour", lambda name: FakeTensorRt("10.3").flavour)
    monkeypatch.setattr(stored_builds, "open_cuda", fail)
    with pytest.raises(DeviceUnavailableError, match=r"TensorRT 10.* builds on the GPU .*none here.*format 'rtx'"):
        stored_engine(tmp_path / "none.onnx", BuildOptions(), flavour="tensorrt")


def test_the_gpu_at_hand_is_in_the_key_and_measured_by_the_child(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.build_doubles import any_report

    seen: list[dict[str, object]] = []

    def child(flavour: str, graph: Path, output: Path, options: BuildOptions, **others: object) -> object:
        seen.append(others)
        output.write_bytes(b"plan")
        return any_report(b"plan")

    gpu = Gpu(0, "NVIDIA Orin (nvgpu)", "8.7", 8, 1 << 33, integrated=True)
    monkeypatch.setattr(stored_builds, "find_flavour", lambda name: FakeTensorRt("10.3").flavour)
    monkeypatch.setattr(stored_builds, "open_cuda", lambda device=None: FakeCuda(gpu=gpu))
    monkeypatch.setattr(stored_builds, "build_in_child", child)
    store = EngineStore(tmp_path)
    entry = stored_engine(graph, BuildOptions(), flavour="tensorrt", store=store)
    assert (entry.key.gpu, entry.key.compute_capability, entry.key.multiprocessors) == (gpu.name, "8.7", 8)
    assert seen[0]["device"] == "cuda:0"
    assert seen[0]["timing_cache"] == tmp_path / "timing-10.3.0.26-nvidia-orin-nvgpu-8.7-8.cache"


def test_what_would_compute_zeros_on_the_gpu_at_hand_is_not_built(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turing = Gpu(0, "NVIDIA GeForce RTX 2080", "7.5", 46, 8 << 30)
    monkeypatch.setattr(stored_builds, "open_cuda", lambda device=None: FakeCuda(gpu=turing))
    with pytest.raises(UsageError, match=r"zeros in fp32 with free axes.*fp16, or run the bundle with onnxruntime"):
        stored_engine(graph, BuildOptions(), flavour="tensorrt-rtx", axes=AXES, store=EngineStore(tmp_path))
    assert list(tmp_path.iterdir()) == []
