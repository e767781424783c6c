"""What is special about OpenVINO: its precisions, its devices, its names, its telemetry, its chatter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from samedge.engines.openvino import engine as backend
from samedge.engines.openvino.engine import OpenVinoEngine
from samedge.engines.protocol import Availability, Engine, EngineOptions
from samedge.engines.registry import open_engine
from samedge.errors import BackendUnavailableError, DeviceUnavailableError, EngineError
from samedge.types import Array

pytestmark = pytest.mark.skipif(not OpenVinoEngine.probe().ok, reason=OpenVinoEngine.probe().reason)

F32 = TensorProto.FLOAT


def write_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, list[int | str | None]],
    outputs: dict[str, list[int | str | None]],
    *,
    weights: dict[str, Array] | None = None,
    kind: int = F32,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def double(tmp_path: Path) -> Path:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    return write_graph(tmp_path / "double.onnx", nodes, {"x": ["n"]}, {"y": ["n"]})


def open_here(path: Path, **options: Any) -> Engine:
    return open_engine(path, backend="openvino", **options)


class FakeCore:
    """Stands for a machine with other devices."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.available_devices = list(devices)

    def get_property(self, device: str, _: str) -> str:
        if device not in self.available_devices:
            raise RuntimeError(
                "Exception from core.cpp:132:\nCannot load libopenvino_gpu.so: libOpenCL.so.1: missing\n"
            )
        return f"A  {device}"


def fake_devices(monkeypatch: pytest.MonkeyPatch, *devices: str) -> None:
    monkeypatch.setattr(backend, "_core", lambda: FakeCore(devices))


class TestSettings:
    def test_float32_is_pinned(self, double: Path) -> None:
        details = open_here(double, threads=1).details
        assert (details["precision"], details["threads"], details["streams"]) == ("float32", "1", "1")
        assert details["openvino"].count(".") == 2
        assert details["processor"]

    def test_a_product_is_as_exact_as_float32_is(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        weight = rng.standard_normal((256, 64), np.float32)
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        path = write_graph(tmp_path / "matmul.onnx", nodes, {"x": ["n", 256]}, {"y": ["n", 64]}, weights={"w": weight})
        x = rng.standard_normal((32, 256), np.float32)
        want = x.astype(np.float64) @ weight.astype(np.float64)
        error = np.abs(open_here(path).run({"x": x})["y"] - want).max() / np.abs(want).max()
        assert error < 1e-6  # bfloat16, OpenVINO's own choice where the CPU has it, is at 1e-3

    @pytest.mark.parametrize(
        ("device", "settings"),
        [
            (
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32",
                    "EXECUTION_MODE_HINT": "ACCURACY",
                    "NUM_STREAMS": 1,
                    "INFERENCE_NUM_THREADS": 3,
                    "ENABLE_CPU_PINNING": False,
                },
            ),
            (
                "GPU.1",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32",
                    "EXECUTION_MODE_HINT": "ACCURACY",
                    "NUM_STREAMS": 1,
                },
            ),
            ("NPU", {"PERFORMANCE_HINT": "LATENCY"}),
        ],
    )
    def test_each_kind_of_device_has_its_settings(self, device: str, settings: dict[str, object]) -> None:
        assert backend._settings(device, 3) == settings


class TestDevices:
    @pytest.mark.parametrize(
        ("available", "asked", "want"),
        [
            (["CPU"], "cpu", "CPU"),
            (["CPU"], "CPU", "CPU"),
            (["CPU", "GPU"], "gpu", "GPU"),
            (["CPU", "GPU"], "GPU.0", "GPU"),
            (["CPU", "GPU.0", "GPU.1"], "gpu", "GPU.0"),
            (["CPU", "GPU.0", "GPU.1"], "gpu:1", "GPU.1"),
            (["CPU", "GPU.0", "GPU.1"], "gpu.1", "GPU.1"),
            (["CPU", "NPU"], "npu", "NPU"),
        ],
    )
    def test_names(self, available: list[str], asked: str, want: str, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_devices(monkeypatch, *available)
        assert backend._find_device(asked) == want

    @pytest.mark.parametrize(
        ("available", "asked", "message"),
        [
            (["CPU"], "gpu", r"'gpu' is unavailable: .*libOpenCL\.so\.1: missing\. Install Intel's compute runtime"),
            (["CPU"], "npu", r"'npu' is unavailable: .*Install Intel's NPU driver"),
            (["CPU", "GPU"], "gpu.1", r"'gpu\.1' is unavailable: OpenVINO finds only gpu\. Request one of gpu"),
            (["CPU", "GPU.0"], "cuda", r"'cuda' is unavailable: OpenVINO has no such device\. Choose one of cpu, gpu"),
            (["CPU"], "AUTO", r"'AUTO' is unavailable: AUTO selects among devices"),
            (["CPU"], "HETERO:GPU,CPU", r"HETERO selects among devices"),
            (["CPU"], "cpu.1", r"'cpu\.1' is unavailable: OpenVINO has no such device"),
        ],
    )
    def test_one_that_is_not_there_is_an_error_with_the_cause(
        self, available: list[str], asked: str, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_devices(monkeypatch, *available)
        with pytest.raises(DeviceUnavailableError, match=message) as caught:
            backend._find_device(asked)
        assert caught.value.facts["available"] == tuple(available)

    def test_nobody_named_one(self, double: Path) -> None:
        assert open_here(double).device == "cpu"

    def test_one_that_openvino_replaced_is_an_error(self, double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Replacing(FakeCore):
            read_model = backend._core().read_model

            def compile_model(self, *_: object) -> Any:
                properties = {"SUPPORTED_PROPERTIES": {}, "EXECUTION_DEVICES": ["CPU"]}
                return SimpleNamespace(create_infer_request=lambda: None, get_property=properties.__getitem__)

        monkeypatch.setattr(backend, "_core", lambda: Replacing(["CPU", "GPU"]))
        with pytest.raises(DeviceUnavailableError, match=r"'gpu' was requested, but OpenVINO used CPU"):
            open_here(double, device="gpu")


class TestProbe:
    def test_version_and_devices(self) -> None:
        found = OpenVinoEngine.probe()
        assert found.ok
        assert found.cure is None
        assert found.version is not None
        assert found.version in found.reason
        assert "cpu" in found.devices

    def test_accelerators_come_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_devices(monkeypatch, "CPU", "GPU.0", "GPU.1", "NPU")
        found = OpenVinoEngine.probe()
        assert found.devices == ("gpu.0", "gpu.1", "npu", "cpu")
        assert "gpu.1 (A GPU.1)" in found.reason

    def test_not_installed(self, double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        found = OpenVinoEngine.probe()
        assert (found.ok, found.reason) == (False, "OpenVINO is not installed")
        assert "samedge[openvino]" in str(found.cure)
        with pytest.raises(BackendUnavailableError, match=r"not installed"):
            OpenVinoEngine(double, EngineOptions())

    def test_installed_and_broken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "openvino.py").write_text("raise ImportError('GLIBC_2.34 not found')")
        monkeypatch.delitem(sys.modules, "openvino", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        found = OpenVinoEngine.probe()
        assert not found.ok
        assert "GLIBC_2.34" in found.reason
        assert "Reinstall" in str(found.cure)

    def test_half_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", ModuleType("openvino"))
        assert not OpenVinoEngine.probe().ok

    @pytest.mark.parametrize("devices", [[], None])
    def test_no_devices(self, devices: list[str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backend, "_core", lambda: SimpleNamespace(available_devices=devices))
        found = OpenVinoEngine.probe()
        assert isinstance(found, Availability)
        assert not found.ok
        assert found.version


def test_telemetry_is_kept_out() -> None:
    program = """
import sys
from pathlib import Path
Path.home = lambda: Path("/nonexistent")
from samedge.engines.openvino.engine import OpenVinoEngine
assert OpenVinoEngine.probe().ok
loaded = [name for name in sys.modules if name.startswith("openvino_telemetry")]
assert not loaded, loaded
stub = sys.modules.get("openvino.tools.ovc.telemetry_stub")
assert stub is not None or "openvino.tools.ovc" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestRuns:
    def test_outputs_are_the_callers_own(self, tmp_path: Path) -> None:
        nodes = [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Neg", ["x"], ["negated"])]
        path = write_graph(tmp_path / "g.onnx", nodes, {"x": ["n"]}, {"same": ["n"], "negated": ["n"]})
        engine = open_here(path)
        x = np.arange(4, dtype=np.float32)
        first = engine.run({"x": x})
        engine.run({"x": x + 10})
        np.testing.assert_array_equal(first["same"], x)
        np.testing.assert_array_equal(first["negated"], -x)
        first["same"][:] = 99
        np.testing.assert_array_equal(x, np.arange(4, dtype=np.float32))
        assert all(array.flags.owndata and array.flags.writeable for array in first.values())

    def test_feeds_that_cannot_be_written_to_are_taken(self, double: Path) -> None:
        x = np.arange(3, dtype=np.float32)
        x.setflags(write=False)
        np.testing.assert_array_equal(open_here(double).run({"x": x})["y"], x * 2)

    def test_threads_that_share_an_engine_get_their_own_results(self, double: Path) -> None:
        engine = open_here(double, threads=1)

        def check(number: int) -> bool:
            x = np.full(1000 + number, number, np.float32)
            return all(bool((engine.run({"x": x})["y"] == 2 * number).all()) for _ in range(20))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(check, range(16)))

    def test_closing_waits_for_the_run(self, double: Path) -> None:
        raw = OpenVinoEngine(double, EngineOptions())
        raw.close()
        with pytest.raises(EngineError, match=r"double\.onnx: OpenVINO failed"):
            raw.run({"x": np.ones(1, np.float32)}, ["y"])

    def test_a_graph_of_images_is_compiled_for_one_and_takes_any_number(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compiled: list[list[str]] = []
        core = backend._core()

        class Watched:
            available_devices = core.available_devices
            get_property = core.get_property
            read_model = core.read_model

            @staticmethod
            def compile_model(*arguments: Any) -> Any:
                done = core.compile_model(*arguments)
                compiled.append([str(port.get_partial_shape()) for port in done.inputs])
                return done

        nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
        images = write_graph(tmp_path / "images.onnx", nodes, {"x": ["batch", 2]}, {"y": ["batch", 2]})
        monkeypatch.setattr(backend, "_core", Watched)
        with open_here(images) as engine:
            assert engine.inputs["x"].shape == ("batch", 2)
            assert engine.outputs["y"].shape == ("batch", 2)
            assert compiled == [["[1,2]"]]
            for count in (1, 3, 1, 5):
                x = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
                np.testing.assert_array_equal(engine.run({"x": x}, ["y"])["y"], 2 * x)
            assert compiled == [["[1,2]"], ["[?,2]"]]

    @pytest.mark.parametrize("axes", [["n", 2], ["batch", "height"], ["batch", None], [1, "batch"]])
    def test_what_else_is_free_stays_so(self, axes: list[int | str | None], tmp_path: Path) -> None:
        nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
        with open_here(write_graph(tmp_path / "free.onnx", nodes, {"x": axes}, {"y": axes})) as engine:
            for shape in {(1, 2), tuple(2 if isinstance(axis, str) else axis or 2 for axis in axes)}:
                x = np.ones(shape, np.float32)
                np.testing.assert_array_equal(engine.run({"x": x}, ["y"])["y"], 2 * x)

    def test_scalars(self, tmp_path: Path) -> None:
        path = write_graph(tmp_path / "s.onnx", [helper.make_node("Neg", ["x"], ["y"])], {"x": []}, {"y": []})
        got = open_here(path).run({"x": np.array(3, np.float32)})["y"]
        assert (got.shape, float(got)) == ((), -3.0)

    def test_an_ir_is_opened_as_well(self, double: Path, tmp_path: Path) -> None:
        openvino = backend._import_openvino()
        path = tmp_path / "double.xml"
        openvino.save_model(backend._core().read_model(str(double)), str(path), compress_to_fp16=False)
        engine = open_engine(path)  # no other backend takes this suffix
        assert engine.backend == "openvino"
        assert str(engine.inputs["x"]) == "float32[x.0]"
        np.testing.assert_array_equal(engine.run({"x": np.ones(2, np.float32)})["y"], np.full(2, 2, np.float32))

    def test_nothing_is_printed(self, double: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        open_here(double).run({"x": np.ones(1, np.float32)})
        for content in (b"", b"\x08", b"{}", b"\x00" * 64, double.read_bytes()[:40], double.read_bytes()[:-1]):
            cut = tmp_path / "cut.onnx"
            cut.write_bytes(content)
            with pytest.raises(EngineError, match=r"^cut\.onnx: not an ONNX file, or truncated"):
                open_here(cut)
        assert capfd.readouterr() == ("", "")


class TestErrors:
    @pytest.mark.parametrize("kind", [RuntimeError, ValueError, MemoryError, TypeError, OSError])
    def test_every_foreign_exception_is_mapped(
        self, kind: type[Exception], double: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> object:
            raise kind("Exception from src/core.cpp:1:\nCheck 'x' failed at y.cpp:2:\nthe reason\n\n")

        engine = open_here(double)
        monkeypatch.setattr(engine._raw, "_request", SimpleNamespace(infer=refuse))
        with pytest.raises(EngineError, match=r"^double\.onnx: OpenVINO failed .* graph \(the reason\)") as caught:
            engine.run({"x": np.ones(1, np.float32)})
        assert isinstance(caught.value.__cause__, kind)
        assert caught.value.facts["kind"] == kind.__name__
        able = {"read_model": backend._core().read_model, "compile_model": backend._core().compile_model}
        for step in able:
            core = SimpleNamespace(**{**able, step: refuse}, available_devices=["CPU"], get_property=lambda *_: "")
            monkeypatch.setattr(backend, "_core", lambda core=core: core)
            with pytest.raises(EngineError, match=r"^double\.onnx: OpenVINO .* cannot open this graph \(the reason\)"):
                open_here(double)

    @pytest.mark.parametrize(
        ("cause", "cure"),
        [
            ("std::bad_alloc", "Out of memory"),
            ("Model can't be parsed", "damaged"),
            ("-- No conversion rule found for operations: nobody.Nonsense", "OpenVINO lacks an operator"),
            ("", "Export the checkpoint again"),
        ],
    )
    def test_causes_have_cures(self, cause: str, cure: str) -> None:
        with pytest.raises(EngineError, match=cure), backend._foreign_errors("g.onnx", "it failed"):
            raise RuntimeError(cause)

    def test_a_graph_that_takes_strings_is_refused(self, tmp_path: Path) -> None:
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        path = write_graph(tmp_path / "s.onnx", nodes, {"x": [1]}, {"y": [1]}, kind=TensorProto.STRING)
        with pytest.raises(EngineError, match=r"'x' is of type string"):
            open_here(path)


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
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        engine = open_here(write_graph(tmp_path / "t.onnx", nodes, {"x": ["n"]}, {"y": ["n"]}, kind=kind))
        assert str(engine.inputs["x"]) == f"{dtype}[n]"
        array = np.ones(3, dtype)
        result = engine.run({"x": array})["y"]
        assert result.dtype == array.dtype
        np.testing.assert_array_equal(result, array)

    def test_names_are_those_of_the_file(self, tmp_path: Path) -> None:
        """One tensor is three outputs, one of which others use: OpenVINO keeps names without an order."""
        nodes = [
            helper.make_node("Relu", ["x"], ["a_first"]),
            helper.make_node("Identity", ["a_first"], ["z"]),
            helper.make_node("Identity", ["a_first"], ["b"]),
            helper.make_node("Neg", ["z"], ["negated"]),
        ]
        outputs: dict[str, list[int | str | None]] = {name: ["n"] for name in ("z", "a_first", "negated", "b")}
        engine = open_here(write_graph(tmp_path / "n.onnx", nodes, {"x": ["n"]}, outputs))
        assert list(engine.outputs) == list(outputs)
        got = engine.run({"x": np.array([-1, 2], np.float32)}, ["b", "negated", "z"])
        assert {name: array.tolist() for name, array in got.items()} == {"b": [0, 2], "negated": [0, -2], "z": [0, 2]}

    def test_axes_without_names_are_never_taken_for_the_same(self, tmp_path: Path) -> None:
        nodes = [helper.make_node("Concat", ["a", "b"], ["y"], axis=0)]
        path = write_graph(tmp_path / "c.onnx", nodes, {"a": [None], "b": [None]}, {"y": [None]})
        engine = open_here(path)
        assert engine.inputs["a"].shape == ("a.0",)
        assert engine.inputs["b"].shape == ("b.0",)
        result = engine.run({"a": np.ones(2, np.float32), "b": np.zeros(3, np.float32)})["y"]
        np.testing.assert_array_equal(result, np.array([1, 1, 0, 0, 0], np.float32))

    def test_weights_that_are_listed_as_inputs_are_none(self, tmp_path: Path) -> None:
        nodes = [helper.make_node("Add", ["w", "x"], ["y"])]
        path = write_graph(
            tmp_path / "w.onnx", nodes, {"w": [1], "x": ["n"]}, {"y": ["n"]}, weights={"w": np.ones(1, np.float32)}
        )
        engine = open_here(path)
        assert list(engine.inputs) == ["x"]
        assert str(engine.inputs["x"]) == "float32[n]"
