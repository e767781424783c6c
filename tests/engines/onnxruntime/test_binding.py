"""I/O binding: the real calls of onnxruntime on memory of the host, and what is asked of a GPU on fakes."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from support.in_threads import in_threads

from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.pool import DevicePool
from samedge.engines.onnxruntime import binding as ort_binding
from samedge.engines.onnxruntime import engine as ort_session
from samedge.engines.onnxruntime.binding import KEPT_INPUTS, OrtArray, OrtBinding
from samedge.engines.onnxruntime.engine import (
    RECORD_PLACEMENT,
    OrtEngine,
    nodes_by_provider,
    parse_device,
    placement,
    require_obtained,
)
from samedge.engines.protocol import Engine, EngineOptions
from samedge.errors import DeviceUnavailableError, EngineError, MissingExtraError, TensorMismatchError
from samedge.testing.cuda import FakeCuda
from samedge.types import Array, TensorSpec

F32 = np.dtype(np.float32)
X = np.arange(8, dtype=np.float32).reshape(2, 4)


def graph(path: Path) -> Path:
    """y = x + x and z = x * n, of any number of rows."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Mul", ["x", "n"], ["z"])]
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [value("x", TensorProto.FLOAT, ["rows", 4]), value("n", TensorProto.FLOAT, [1])],
            [value("y", TensorProto.FLOAT, ["rows", 4]), value("z", TensorProto.FLOAT, ["rows", 4])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, path)
    return path


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine whose session is bound to memory, as on a GPU; the memory is that of the host."""
    monkeypatch.setattr(ort_session, "BOUND", {"CPUExecutionProvider": "cpu"})
    raw = OrtEngine(graph(tmp_path / "g.onnx"), EngineOptions(device="cpu", threads=1))
    with Engine(raw, backend="onnxruntime", name="g.onnx") as engine:
        yield engine


def feeds(x: Any) -> dict[str, Any]:
    return {"x": x, "n": np.full(1, 3, np.float32)}


def on_device(engine: Engine, x: Any) -> DeviceArray:
    array = engine.run_on_device(feeds(x), ["y"])["y"]
    assert isinstance(array, DeviceArray)
    return array


def test_outputs_stay_and_are_fed_to_the_next_call(engine: Engine) -> None:
    assert engine.on_device
    first = on_device(engine, X)
    assert isinstance(first, OrtArray)
    assert first.spec == TensorSpec((2, 4), F32)
    second = on_device(engine, first)
    for rows in (1, 5, 2):
        on_device(engine, np.ones((rows, 4), np.float32))  # what was kept is not written over
    np.testing.assert_array_equal(first.numpy(), X * 2)
    np.testing.assert_array_equal(second.numpy(), X * 4)
    results = engine.run(feeds(second))
    np.testing.assert_array_equal(results["y"], X * 8)
    np.testing.assert_array_equal(results["z"], X * 12)
    assert list(engine.run(feeds(X), ["z"])) == ["z"]
    for order in (["z", "y"], ["y", "z"]):  # each name has its own, in whatever order they are asked for
        np.testing.assert_array_equal(engine.run(feeds(X), order)["z"], X * 3)
        both = engine.run_on_device(feeds(X), order)
        np.testing.assert_array_equal(both["y"].numpy(), X * 2)  # type: ignore[union-attr]
    results["y"][:] = 0  # the caller's own
    np.testing.assert_array_equal(second.numpy(), X * 4)
    second.numpy()[:] = 0
    np.testing.assert_array_equal(second.rows([1]), X[1:] * 4)


def test_inputs_of_the_host_go_into_memory_that_stays(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []
    new = OrtBinding._new

    def counted(self: OrtBinding, array: Array) -> Any:
        made.append(array.shape)
        return new(self, array)

    monkeypatch.setattr(OrtBinding, "_new", counted)
    for turn in range(4):
        np.testing.assert_array_equal(engine.run(feeds(X + turn))["y"], (X + turn) * 2)
    assert made == [(2, 4), (1,)]
    for rows in range(1, KEPT_INPUTS + 5):
        engine.run(feeds(np.ones((rows, 4), np.float32)))
    binding = engine._raw._binding  # type: ignore[union-attr]
    assert len(binding._inputs) == KEPT_INPUTS


def test_arrays_of_the_host_are_copied_and_outlive_the_engine(engine: Engine) -> None:
    given = X.copy()
    array = engine.to_device(given)
    given[:] = 0
    assert isinstance(array, DeviceArray)
    result = on_device(engine, array)
    engine.close()
    gc.collect()
    np.testing.assert_array_equal(result.numpy(), X * 2)
    np.testing.assert_array_equal(array.numpy(), X)
    array.close()
    array.close()
    with pytest.raises(EngineError, match="is closed"):
        array.numpy()


def test_a_failed_run_leaves_nothing_bound(engine: Engine) -> None:
    binding = engine._raw._binding  # type: ignore[union-attr]
    with pytest.raises(EngineError, match="onnxruntime failed while running this graph"):
        engine._raw.run_on_device({"x": X}, ["y"])  # type: ignore[union-attr]  # past the checks of Engine
    closed = on_device(engine, X)
    closed.close()
    with pytest.raises(EngineError, match="this device array is closed"):
        engine.run(feeds(closed))
    np.testing.assert_array_equal(engine.run(feeds(X))["y"], X * 2)
    assert binding is not None


def test_other_engines_arrays_are_read_where_they_lie(engine: Engine) -> None:
    class Elsewhere(DeviceArray):
        """Memory of the host that waits as that of a GPU does."""

        waited = 0

        def __init__(self, values: Array) -> None:
            super().__init__(values.shape, values.dtype, "cpu")
            self.values = values

        address = property(lambda self: self.values.ctypes.data)

        def wait(self) -> None:
            self.waited += 1

        def numpy(self) -> Array:
            raise AssertionError("it is not to be copied")

        def hold(self) -> Any:
            return lambda: None

        def close(self) -> None: ...

    array = Elsewhere(X)
    np.testing.assert_array_equal(engine.run(feeds(array))["y"], X * 2)
    assert array.waited == 1


def test_torch_and_numpy_take_what_it_leaves(engine: Engine) -> None:
    array = on_device(engine, X)
    taken = np.from_dlpack(array)
    assert taken.ctypes.data == array.address
    array.close()
    gc.collect()
    for rows in range(1, 5):
        engine.run(feeds(np.ones((rows, 4), np.float32)))
    np.testing.assert_array_equal(taken, X * 2)
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(torch.from_dlpack(on_device(engine, X)).numpy(), X * 2)
    np.testing.assert_array_equal(engine.run(feeds(engine.to_device(torch.from_numpy(X))))["y"], X * 2)


def test_threads_take_turns(engine: Engine) -> None:

    def work(seed: int) -> None:
        for turn in range(20):
            given = X + seed * 100 + turn
            np.testing.assert_array_equal(on_device(engine, on_device(engine, given)).numpy(), given * 4)

    in_threads([partial(work, seed) for seed in range(4)])


# A GPU: fakes of what onnxruntime is asked


class FakeBinding:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.outputs: list[str] = []

    def bind_input(self, name: str, kind: str, number: int, dtype: Any, shape: Any, address: int) -> None:
        self.calls.append(("bind_input", name, kind, number, dtype, shape))

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.calls.append(("bind_ortvalue_input", name))

    def bind_output(self, name: str, kind: str, number: int) -> None:
        self.calls.append(("bind_output", name, kind, number))
        self.outputs.append(name)

    def clear_binding_inputs(self) -> None:
        self.calls.append(("clear_binding_inputs",))

    def clear_binding_outputs(self) -> None:
        self.outputs.clear()

    def get_outputs(self) -> list[Any]:
        return [value_of((2, 4)) for _ in self.outputs]


def value_of(shape: tuple[int, ...]) -> Any:
    return SimpleNamespace(
        shape=lambda: list(shape),
        data_type=lambda: "tensor(float)",
        data_ptr=lambda: 4096,
        update_inplace=lambda _: None,
    )


class FakeOrt:
    def __init__(self) -> None:
        self.binding = FakeBinding()
        self.asked: list[Any] = []
        self.OrtValue = SimpleNamespace(ortvalue_from_shape_and_type=self._value)

    def _value(self, shape: Any, dtype: Any, kind: str, number: int) -> Any:
        self.asked.append((tuple(shape), dtype, kind, number))
        return value_of(tuple(shape))

    def io_binding(self) -> FakeBinding:
        return self.binding

    def run_with_iobinding(self, binding: Any) -> None:
        binding.calls.append(("run",))


def test_a_gpu_is_asked_by_its_number() -> None:
    fake, cuda = FakeOrt(), FakeCuda()
    bound = OrtBinding(fake, fake, "cuda:1", open_memory=lambda device: cuda)
    pool = DevicePool(FakeCuda())
    with pool.memory.current():
        array = pool.allocate((2, 4), F32)
    result = bound.run_on_device({"x": array, "n": np.ones(1, np.float32)}, ["y"])["y"]
    assert result.device == "cuda:1"
    assert result.__dlpack_device__() == (2, 1)
    assert fake.asked == [((1,), np.float32, "cuda", 1)]
    assert fake.binding.calls[:4] == [
        ("bind_input", "x", "cuda", 1, np.float32, [2, 4]),
        ("bind_ortvalue_input", "n"),
        ("bind_output", "y", "cuda", 1),
        ("run",),
    ]
    # Who borrows it may read on after he let go, so the memory is not used again before the GPU is done.
    lent = result.__dlpack__()
    result.close()
    assert "synchronise_all" not in cuda.calls
    del lent
    gc.collect()
    assert cuda.calls.count("synchronise_all") == 1
    bound.close()
    assert cuda.closed


def test_without_the_bindings_a_gpus_memory_is_not_lent() -> None:
    fake = FakeOrt()

    def missing(device: str) -> Any:
        raise MissingExtraError("the CUDA bindings are not installed", cure="pip install cuda-bindings")

    bound = OrtBinding(fake, fake, "cuda:0", open_memory=missing)
    result = bound.run_on_device({"n": np.ones(1, np.float32)}, ["y"])["y"]
    with pytest.raises(MissingExtraError, match="cuda-bindings"):
        result.__dlpack__()


def test_every_call_is_one_that_onnxruntime_has() -> None:
    real, fake = ort.IOBinding, FakeBinding
    for name in ("bind_input", "bind_ortvalue_input", "bind_output", "clear_binding_inputs", "clear_binding_outputs",
                 "get_outputs"):  # fmt: skip
        have = list(inspect.signature(getattr(real, name)).parameters)
        want = list(inspect.signature(getattr(fake, name)).parameters)
        assert len(have) >= len(want), name
    assert list(inspect.signature(ort.OrtValue.ortvalue_from_shape_and_type).parameters)[:4] == [
        "shape", "element_type", "device_type", "device_id"
    ]  # fmt: skip
    assert list(inspect.signature(real.bind_input).parameters)[1:] == [
        "name", "device_type", "device_id", "element_type", "shape", "buffer_ptr"
    ]  # fmt: skip
    for name in ("data_ptr", "numpy", "shape", "data_type", "update_inplace"):
        assert hasattr(ort.OrtValue, name)
    assert hasattr(real, "copy_outputs_to_cpu")


# What the session really got


class Placed:
    def __init__(self, providers: list[str], nodes: dict[str, int]) -> None:
        self.providers, self.nodes = providers, nodes

    def get_providers(self) -> list[str]:
        return self.providers

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [SimpleNamespace(ep_name=name, get_nodes=lambda n=n: [None] * n) for name, n in self.nodes.items()]


CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


def test_nodes_on_the_cpu_are_counted() -> None:
    assert placement(Placed([CUDA, CPU], {CUDA: 40, CPU: 2})) == "2 of 42"
    assert placement(SimpleNamespace()) == "not reported by this onnxruntime"


@pytest.mark.parametrize(
    ("session", "message"),
    [
        (Placed([CPU], {CPU: 3}), "has no kernel for any node"),
        (Placed([CUDA, CPU], {CPU: 3}), "has no kernel for any node of this graph"),
        (Placed([CPU], {}), "fell back to CPUExecutionProvider"),
    ],
)
def test_a_graph_that_runs_on_the_cpu_although_a_gpu_was_asked_for_is_an_error(session: Placed, message: str) -> None:
    with pytest.raises(DeviceUnavailableError, match=message):
        require_obtained(session, parse_device("cuda"))


def test_the_real_session_tells_where_its_nodes_are(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry(RECORD_PLACEMENT, "1")
    session = ort.InferenceSession(str(graph(tmp_path / "g.onnx")), options, providers=[CPU])
    assert nodes_by_provider(session) == {CPU: 2}


def test_engines_of_the_host_do_not_bind(tmp_path: Path) -> None:
    raw = OrtEngine(graph(tmp_path / "g.onnx"), EngineOptions(device="cpu", threads=1))
    assert not raw.keeps_on_device
    assert "nodes on the cpu" not in raw.details
    with pytest.raises(EngineError, match="computes on the host"):
        raw.to_device(X)
    assert ort_binding.OrtBinding is OrtBinding
    with pytest.raises(TensorMismatchError):
        Engine(raw, backend="onnxruntime", name="g").run({"x": X[:, :3], "n": X[0, :1]})
