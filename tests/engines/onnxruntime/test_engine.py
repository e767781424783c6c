"""What is special about onnxruntime: devices that are not what they seem, its exceptions, its chatter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as native

from samedge.engines.onnxruntime.engine import IDENTITY, OrtEngine, parse_device
from samedge.engines.protocol import EngineOptions
from samedge.engines.registry import open_engine
from samedge.engines.selection import usable_cores
from samedge.errors import BackendUnavailableError, DeviceUnavailableError, EngineError

NATIVE_ERRORS = [kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "identity.onnx"
    path.write_bytes(IDENTITY)
    return path


class FakeSession:
    """Stands for a session that got other providers than it was asked for."""

    def __init__(self, got: Sequence[str]) -> None:
        self.got = list(got)

    def get_providers(self) -> list[str]:
        return self.got

    def get_inputs(self) -> list[Any]:
        return []

    def get_outputs(self) -> list[Any]:
        return []

    def io_binding(self) -> Any:
        return None


def fake_onnxruntime(monkeypatch: pytest.MonkeyPatch, available: Sequence[str], session: Any) -> list[dict[str, Any]]:
    """Puts a module in onnxruntime's place; returns the keyword arguments of each session that is opened."""
    opened: list[dict[str, Any]] = []

    def inference_session(graph: object, options: object, **kwargs: Any) -> FakeSession:
        opened.append({"graph": graph, "options": options, **kwargs})
        result = session(kwargs["providers"])
        assert isinstance(result, FakeSession)
        return result

    module = ModuleType("onnxruntime")
    module.__dict__.update(
        __version__="9.9",
        __file__="/nowhere/onnxruntime/__init__.py",
        get_available_providers=lambda: list(available),
        SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda *_: None),
        InferenceSession=inference_session,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return opened


GPU_WHEEL = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


def names(providers: Sequence[Any]) -> list[str]:
    return [entry if isinstance(entry, str) else entry[0] for entry in providers]


class TestDevices:
    def test_a_cpu_wheel_asked_for_cuda_names_the_fix(self, identity: Path) -> None:
        with pytest.raises(DeviceUnavailableError, match=r"built without CUDAExecutionProvider") as caught:
            open_engine(identity, device="cuda")
        assert caught.value.cure is not None
        assert "pip uninstall -y onnxruntime && pip install onnxruntime-gpu" in caught.value.cure
        assert "CPUExecutionProvider" in str(caught.value.facts["available"])

    def test_a_jetson_is_not_sent_to_pypi(self, identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        with pytest.raises(DeviceUnavailableError, match=r"JetPack"):
            open_engine(identity, device="cuda")

    def test_a_session_that_silently_got_the_cpu_is_an_error(
        self, identity: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_onnxruntime(monkeypatch, GPU_WHEEL, lambda _: FakeSession(["CPUExecutionProvider"]))
        with pytest.raises(DeviceUnavailableError, match=r"the device 'cuda:0' is unavailable") as caught:
            open_engine(identity, device="cuda")
        assert caught.value.facts["available"] == ("CPUExecutionProvider",)

    def test_the_reason_that_a_provider_gives_is_passed_on(
        self, identity: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_such_gpu(_: object) -> FakeSession:
            raise RuntimeError("CUDA failure 101: invalid device ordinal\nstack trace")

        fake_onnxruntime(monkeypatch, GPU_WHEEL, no_such_gpu)
        with pytest.raises(DeviceUnavailableError, match=r"'cuda:7' is unavailable: CUDA failure 101: invalid device"):
            open_engine(identity, device="cuda:7")

    def test_what_the_preloader_prints_becomes_the_reason(
        self, identity: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        fake_onnxruntime(monkeypatch, GPU_WHEEL, lambda _: FakeSession(["CPUExecutionProvider"]))
        monkeypatch.setattr(
            sys.modules["onnxruntime"],
            "preload_dlls",
            lambda: print("Failed to load libcudnn.so.9"),  # noqa: T201
            raising=False,
        )
        with pytest.raises(DeviceUnavailableError, match=r"Failed to load libcudnn\.so\.9"):
            open_engine(identity, device="cuda")
        assert capfd.readouterr() == ("", "")

    def test_a_library_that_does_not_load_is_named(
        self, identity: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        fake_onnxruntime(monkeypatch, GPU_WHEEL, lambda _: FakeSession(["CPUExecutionProvider"]))
        capi = tmp_path / "capi"
        capi.mkdir()
        (capi / "libonnxruntime_providers_cuda.so").write_bytes(b"not a library")
        monkeypatch.setattr(sys.modules["onnxruntime"], "__file__", str(tmp_path / "__init__.py"))
        with pytest.raises(DeviceUnavailableError, match=r"libonnxruntime_providers_cuda\.so: "):
            open_engine(identity, device="cuda")

    def test_two_wheels_that_overwrite_each_other_are_found(
        self, identity: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def version(name: str) -> str:
            if name not in ("onnxruntime", "onnxruntime-gpu"):
                raise PackageNotFoundError(name)
            return "1.32.0"

        monkeypatch.setattr("importlib.metadata.version", version)
        with pytest.raises(DeviceUnavailableError, match=r"onnxruntime and onnxruntime-gpu are installed together"):
            open_engine(identity, device="cuda")

    def test_a_gpu_that_is_there_is_first_and_the_cpu_behind_it_is_readable(
        self, identity: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = fake_onnxruntime(monkeypatch, GPU_WHEEL, lambda providers: FakeSession(names(providers)))
        engine = open_engine(identity, device="cuda:1")
        assert engine.device == "cuda:1"
        assert engine.details["providers"] == "CUDAExecutionProvider, CPUExecutionProvider"
        assert opened[-1]["providers"][0][1]["device_id"] == "1"
        assert opened[-1]["enable_fallback"] == 0

    def test_tensorrt_keeps_cuda_for_the_nodes_it_lacks(self, identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_onnxruntime(monkeypatch, GPU_WHEEL, lambda providers: FakeSession(names(providers)))
        engine = open_engine(identity, device="tensorrt")
        assert engine.device == "tensorrt:0"
        assert engine.details["providers"] == ", ".join(GPU_WHEEL)

    def test_no_device_named_takes_cuda_where_it_works(self, identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_onnxruntime(monkeypatch, GPU_WHEEL, lambda providers: FakeSession(names(providers)))
        assert open_engine(identity).device == "cuda:0"

    def test_no_device_named_takes_the_cpu_elsewhere(self, identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_onnxruntime(monkeypatch, GPU_WHEEL, lambda _: FakeSession(["CPUExecutionProvider"]))
        assert open_engine(identity).device == "cpu"

    def test_the_full_name_of_a_provider_is_a_device(self, identity: Path) -> None:
        assert open_engine(identity, device="CPUExecutionProvider").device == "CPUExecutionProvider"
        with pytest.raises(DeviceUnavailableError, match=r"built without QNNExecutionProvider.*onnxruntime-qnn"):
            open_engine(identity, device="QNNExecutionProvider")

    @pytest.mark.parametrize(
        ("asked", "name"), [("CPU", "cpu"), ("directml", "dml:0"), ("DML:1", "dml:1"), ("CUDA", "cuda:0")]
    )
    def test_names_are_read_in_either_case(self, asked: str, name: str) -> None:
        assert parse_device(asked).name == name


class TestInstallation:
    def test_not_installed(self, identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(BackendUnavailableError, match=r"pip install 'samedge\[cpu\]'"):
            open_engine(identity, backend="onnxruntime")
        with pytest.raises(BackendUnavailableError, match=r"not installed"):
            OrtEngine(identity, EngineOptions())

    def test_the_rest_of_an_uninstalled_wheel_is_recognised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
        found = OrtEngine.probe()
        assert not found.ok
        assert "broken" in found.reason
        assert found.cure is not None
        assert "pip uninstall" in found.cure

    def test_a_library_that_does_not_import_is_reported(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "onnxruntime.py").write_text(
            "raise ImportError('libstdc++.so.6: version GLIBCXX_3.4.30 not found')"
        )
        monkeypatch.delitem(sys.modules, "onnxruntime")
        monkeypatch.syspath_prepend(tmp_path)
        found = OrtEngine.probe()
        assert not found.ok
        assert "GLIBCXX_3.4.30" in found.reason

    def test_probe_names_version_and_devices(self) -> None:
        found = OrtEngine.probe()
        assert found.ok
        assert found.cure is None
        assert "cpu" in found.devices


class TestErrors:
    def test_onnxruntime_has_exceptions_of_its_own(self) -> None:
        assert len(NATIVE_ERRORS) >= 10

    @pytest.mark.parametrize("kind", [*NATIVE_ERRORS, RuntimeError, ValueError, MemoryError, TypeError])
    def test_every_foreign_exception_is_mapped(
        self, kind: type[Exception], identity: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> object:
            raise kind("[ONNXRuntimeError] : 1 : FAIL : no\nmore")

        engine = open_engine(identity, device="cpu")
        monkeypatch.setattr(engine._raw, "_session", SimpleNamespace(run=refuse))
        with pytest.raises(EngineError, match=r"^identity\.onnx: onnxruntime failed while running") as caught:
            engine.run({"x": np.ones(1, np.float32)})
        assert isinstance(caught.value.__cause__, kind)
        assert "\n" not in str(caught.value)
        assert "ONNXRuntimeError" not in str(caught.value)
        monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
        with pytest.raises(EngineError, match=r"^identity\.onnx: onnxruntime .* cannot open this graph"):
            OrtEngine(identity, EngineOptions(device="cpu"))

    def test_no_memory_has_its_own_cure(self, identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> object:
            raise native.RuntimeException("Failed to allocate memory for requested buffer of size 6442450944")

        engine = open_engine(identity, device="cpu")
        monkeypatch.setattr(engine._raw, "_session", SimpleNamespace(run=refuse))
        with pytest.raises(EngineError, match=r"Out of memory"):
            engine.run({"x": np.ones(1, np.float32)})

    def test_a_graph_of_a_later_opset_says_update(self, tmp_path: Path) -> None:
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ports[:1], ports[1:])
        path = tmp_path / "later.onnx"
        path.write_bytes(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 999)], ir_version=8).SerializeToString()
        )
        with pytest.raises(EngineError, match=r"Update onnxruntime"):
            open_engine(path, backend="onnxruntime")

    def test_a_graph_that_takes_strings_is_refused(self, tmp_path: Path) -> None:
        ports = [helper.make_tensor_value_info(name, TensorProto.STRING, [1]) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ports[:1], ports[1:])
        path = tmp_path / "strings.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        with pytest.raises(EngineError, match=r"'x' is a tensor\(string\)"):
            open_engine(path, backend="onnxruntime")

    def test_nothing_is_printed(self, identity: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        engine = open_engine(identity, device="cpu")
        engine.run({"x": np.ones(1, np.float32)})
        cut = tmp_path / "cut.onnx"
        cut.write_bytes(identity.read_bytes()[:40])
        with pytest.raises(EngineError):
            open_engine(cut)
        assert capfd.readouterr() == ("", "")


class TestSpecs:
    @pytest.mark.parametrize(
        ("kind", "dtype"),
        [
            (TensorProto.FLOAT, "float32"),
            (TensorProto.FLOAT16, "float16"),
            (TensorProto.DOUBLE, "float64"),
            (TensorProto.INT8, "int8"),
            (TensorProto.UINT8, "uint8"),
            (TensorProto.INT32, "int32"),
            (TensorProto.INT64, "int64"),
            (TensorProto.BOOL, "bool"),
        ],
    )
    def test_dtypes_become_numpy_dtypes(self, kind: int, dtype: str, tmp_path: Path) -> None:
        ports = [helper.make_tensor_value_info(name, kind, ["n"]) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ports[:1], ports[1:])
        path = tmp_path / "typed.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        engine = open_engine(path, device="cpu")
        assert str(engine.inputs["x"]) == f"{dtype}[n]"
        array = np.ones(3, dtype)
        result = engine.run({"x": array})["y"]
        assert result.dtype == array.dtype
        np.testing.assert_array_equal(result, array)

    def test_axes_without_names_are_never_taken_for_the_same(self, tmp_path: Path) -> None:
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in ("a", "b", "y")]
        nodes = [helper.make_node("Concat", ["a", "b"], ["y"], axis=0)]
        graph = helper.make_graph(nodes, "g", ports[:2], ports[2:])
        path = tmp_path / "anonymous.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        engine = open_engine(path, device="cpu")
        assert engine.inputs["a"].shape != engine.inputs["b"].shape
        result = engine.run({"a": np.ones(2, np.float32), "b": np.zeros(3, np.float32)})["y"]
        np.testing.assert_array_equal(result, np.array([1, 1, 0, 0, 0], np.float32))

    def test_threads_are_as_asked(self, identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert open_engine(identity, threads=1).details["threads"] == "1"
        opened = fake_onnxruntime(monkeypatch, GPU_WHEEL, lambda providers: FakeSession(names(providers)))
        open_engine(identity, device="cpu", threads=3)
        assert opened[-1]["options"].intra_op_num_threads == 3
        open_engine(identity, device="cpu")
        assert opened[-1]["options"].intra_op_num_threads == usable_cores()


class TestSettings:
    def test_are_those_that_the_documentation_lists(self, identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[Any] = []

        def session(_: object, options: Any, **__: object) -> FakeSession:
            opened.append(options)
            return FakeSession(["CPUExecutionProvider"])

        monkeypatch.setattr("onnxruntime.InferenceSession", session)
        open_engine(identity, backend="onnxruntime", device="cpu", threads=3)
        options = opened[-1]
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
        assert options.get_session_config_entry("session.force_spinning_stop") == "1"
        assert options.enable_cpu_mem_arena
        assert not options.enable_mem_pattern
