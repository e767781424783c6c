"""onnxruntime on a stream of ours, with stand-ins for its session over a fake GPU that watches."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from support.in_threads import in_threads

from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.onnxruntime import engine as backend
from samedge.engines.onnxruntime import engine as ort_session
from samedge.engines.onnxruntime.engine import parse_device
from samedge.engines.onnxruntime.staged import OrtStaged, OwnStream, open_stream
from samedge.engines.protocol import Engine, EngineOptions
from samedge.errors import DeviceUnavailableError, EngineError, MissingExtraError
from samedge.testing.cuda import FakeCuda
from samedge.types import Array

X = np.arange(8, dtype=np.float32).reshape(2, 4)
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class Arena:
    """Memory of a session: what was given back is given out again, and it is freed with the session."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.free: dict[int, list[int]] = {}
        self.all: list[int] = []

    def take(self, nbytes: int) -> int:
        if not self.free.setdefault(nbytes, []):
            self.all.append(self.cuda.allocate(nbytes))
            return self.all[-1]
        return self.free[nbytes].pop()

    def give_back(self, nbytes: int, address: int) -> None:
        self.free[nbytes].append(address)

    def end(self) -> None:
        with self.cuda.current():
            for address in self.all:
                self.cuda.free(address)


class Binding:
    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.inputs: dict[str, tuple[Any, tuple[int, ...], int]] = {}
        self.outputs: list[str] = []
        self.values: list[tuple[tuple[int, ...], int]] = []

    def bind_input(self, name: str, kind: str, number: int, dtype: Any, shape: Any, address: int) -> None:
        assert (kind, number) == ("cuda", 0)
        self.inputs[name] = (dtype, tuple(shape), address)

    def bind_output(self, name: str, kind: str, number: int) -> None:
        assert (kind, number) == ("cuda", 0)
        self.outputs.append(name)

    def get_outputs(self) -> list[Any]:
        return [
            SimpleNamespace(
                shape=lambda s=shape: list(s), data_type=lambda: "tensor(float)", data_ptr=lambda a=address: a
            )
            for shape, address in self.values
        ]

    def clear_binding_inputs(self) -> None:
        self.inputs.clear()

    def clear_binding_outputs(self) -> None:
        self.outputs.clear()
        for shape, address in self.values:
            self.arena.give_back(int(np.prod(shape)) * 4, address)
        self.values.clear()


class Session:
    """y = x + x and z = x * n, on the stream that it was opened with."""

    def __init__(self, cuda: FakeCuda, stream: int, *, told: str | None = None, nodes: dict[str, int]) -> None:
        self.cuda, self.stream, self.nodes = cuda, stream, nodes
        self.told = str(stream) if told is None else told
        self.arena = Arena(cuda)
        self.fails = False
        self.waits: list[bool] = []
        weakref.finalize(self, self.arena.end)

    def io_binding(self) -> Binding:
        return Binding(self.arena)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {CUDA: {"user_compute_stream": self.told}, CPU: {}}

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [SimpleNamespace(ep_name=name, get_nodes=lambda n=n: [None] * n) for name, n in self.nodes.items()]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=n, type="tensor(float)", shape=s) for n, s in (("x", ["rows", 4]), ("n", [1]))]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=name, type="tensor(float)", shape=["rows", 4]) for name in "yz"]

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        no_wait = options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self.waits.append(not no_wait)
        cuda = self.cuda
        _, shape, x = binding.inputs["x"]
        n, nbytes = binding.inputs["n"][2], int(np.prod(shape)) * 4
        for name in binding.outputs:
            y = self.arena.take(nbytes)
            binding.values.append((shape, y))

            def do(name: str = name, y: int = y) -> None:
                left = cuda.device_bytes(x, nbytes).view(np.float32)
                right = left if name == "y" else cuda.device_bytes(n, 4).view(np.float32)
                cuda.device_bytes(y, nbytes).view(np.float32)[:] = left + right if name == "y" else left * right

            cuda.run_kernel(name, self.stream, do, reads=[(x, nbytes), (n, 4)], writes=[(y, nbytes)])
        if self.fails:
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : a kernel failed")
        if not no_wait:
            cuda.synchronise(self.stream)


class RunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def get_run_config_entry(self, key: str) -> str:
        return self.entries.get(key, "")


FAKE_ORT = SimpleNamespace(RunOptions=RunOptions, __version__="1.99")


class Shared:
    """Another engine's object for the same GPU, which stays open."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cuda, name)

    def close(self) -> None: ...


class Bench:
    def __init__(self, *, all_on_gpu: bool = True, **cuda: Any) -> None:
        self.cuda = FakeCuda(**cuda)
        opened = open_stream("cuda:0", open_memory=lambda device: self.cuda)
        assert isinstance(opened, OwnStream)
        self.session: Any = Session(self.cuda, opened.number, nodes={CUDA: 2})
        self.staged = OrtStaged(FAKE_ORT, self.session, opened, all_on_gpu=all_on_gpu)

    def close(self) -> None:
        self.session = None
        gc.collect()
        self.staged.close()


@pytest.fixture(params=[True, False], ids=["all on the gpu", "some on the cpu"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(all_on_gpu=request.param)


def feeds(x: Any, n: float = 3) -> dict[str, Any]:
    return {"x": x, "n": np.full(1, n, np.float32)}


def test_results_are_right_and_everything_is_freed(bench: Bench) -> None:
    for turn, rows in enumerate([1, 3, 3, 2, 5, 0, 1]):
        x = np.full((rows, 4), turn, np.float32)
        results = bench.staged.run(feeds(x, turn), ["z", "y"])
        np.testing.assert_array_equal(results["y"], x * 2)
        np.testing.assert_array_equal(results["z"], x * turn)
    bench.close()
    bench.staged.close()  # may be called twice
    assert bench.cuda.closed
    with pytest.raises(EngineError, match="is closed"):
        bench.staged.run(feeds(X), ["y"])


def test_the_steady_state_allocates_nothing(bench: Bench) -> None:
    def turn(number: int) -> None:
        x = X + number
        embedding = bench.staged.run_on_device(feeds(x), ["y"])["y"]
        results = bench.staged.run(feeds(embedding, number), ["y", "z"])
        np.testing.assert_array_equal(results["y"], x * 4)
        np.testing.assert_array_equal(results["z"], x * 2 * number)

    for number in range(3):
        turn(number)
    before, made = bench.cuda.allocations, bench.cuda.calls.count("create_event")
    for number in range(5):
        turn(number)
    assert bench.cuda.allocations == before
    assert bench.cuda.calls.count("create_event") == made
    bench.close()


def test_the_host_waits_only_for_what_it_takes_back() -> None:
    bench = Bench()
    bench.staged.run_on_device(feeds(X), ["y"])
    first = bench.cuda.calls.count("synchronise")
    kept = [bench.staged.run_on_device(feeds(X + turn), ["y"])["y"] for turn in range(3)]
    assert bench.cuda.calls.count("synchronise") == first
    bench.staged.run(feeds(X), ["y"])
    assert bench.cuda.calls.count("synchronise") == first + 1
    assert not any(bench.session.waits)
    for turn, array in enumerate(kept):  # nothing was written over while copies and work were under way
        np.testing.assert_array_equal(array.numpy(), (X + turn) * 2)
    del kept, array
    bench.close()


def test_with_nodes_on_the_cpu_inputs_are_there_before_and_outputs_after_each_run() -> None:
    bench = Bench(all_on_gpu=False)
    bench.cuda.calls.clear()
    bench.staged.run_on_device(feeds(X), ["y"])
    work = [name for name in bench.cuda.calls if name in ("copy_in", "synchronise", "y", "copy_across")]
    assert work[-5:] == ["copy_in", "synchronise", "y", "synchronise", "copy_across"]
    assert bench.session.waits == [True]
    bench.close()


def test_embeddings_stay_and_go_from_engine_to_engine_without_the_host() -> None:
    encoder = Bench()
    shared: Any = Shared(encoder.cuda)
    opened = open_stream("cuda:0", open_memory=lambda device: shared)
    assert isinstance(opened, OwnStream)
    session = Session(encoder.cuda, opened.number, nodes={CUDA: 2})
    decoder = OrtStaged(FAKE_ORT, session, opened, all_on_gpu=True)
    for turn in range(4):
        embedding = encoder.staged.run_on_device(feeds(X + turn), ["y"])["y"]
        assert isinstance(embedding, DeviceArray)
        assert embedding.__dlpack_device__() == (2, 0)
        copies = encoder.cuda.calls.count("copy_across")
        for n in (2, 3):
            result = decoder.run(feeds(embedding, n), ["z"])["z"]
            np.testing.assert_array_equal(result, (X + turn) * 2 * n)
        assert encoder.cuda.calls.count("copy_across") == copies + 1  # the second time it was there
        embedding.close()
        with pytest.raises(EngineError, match="is closed"):
            decoder.run(feeds(embedding), ["z"])
    given_up = encoder.staged.run_on_device(feeds(X), ["y"])["y"]
    result_there = decoder.run_on_device(feeds(given_up, 5), ["z"])["z"]
    given_up.close()
    encoder.staged.run_on_device(feeds(X + 70), ["y"])  # not where the decoder is still to read
    np.testing.assert_array_equal(result_there.numpy(), X * 2 * 5)
    lent = encoder.staged.run_on_device(feeds(X), ["y"])["y"]
    capsule = lent.__dlpack__(stream=1)
    lent.close()
    encoder.staged.run_on_device(feeds(X + 50), ["y"])  # not in the memory that is lent
    del capsule, lent, result_there
    gc.collect()
    with encoder.cuda.current():
        encoder.cuda.synchronise_all()
    del session
    decoder.close()
    encoder.close()


def test_an_error_in_the_middle_leaves_nothing_behind_and_an_engine_that_works(bench: Bench) -> None:
    bench.session.fails = True
    array = bench.staged.to_device(X)
    for run in (bench.staged.run, bench.staged.run_on_device):
        bench.cuda.calls.clear()
        with pytest.raises(RuntimeError, match="a kernel failed"):
            run(feeds(array), ["y"])
        after = bench.cuda.calls[bench.cuda.calls.index("y") :]
        assert "synchronise" in after  # what was started has ended when memory is taken back
    assert bench.staged._binding.values == []
    bench.session.fails = False
    np.testing.assert_array_equal(bench.staged.run(feeds(array), ["y"])["y"], X * 2)
    array.close()
    bench.close()


def test_memory_that_cannot_be_had_is_an_error_and_nothing_is_lost() -> None:
    bench = Bench(memory_bytes=4096)
    with pytest.raises(EngineError, match="not enough GPU memory"):
        bench.staged.run(feeds(np.ones((1000, 4), np.float32)), ["y"])
    np.testing.assert_array_equal(bench.staged.run(feeds(X), ["y"])["y"], X * 2)
    bench.close()


def test_arrays_outlive_the_engine(bench: Bench) -> None:
    array = bench.staged.run_on_device(feeds(X), ["y"])["y"]
    bench.close()
    assert not bench.cuda.closed
    np.testing.assert_array_equal(array.numpy(), X * 2)
    array.close()
    assert bench.cuda.closed


def test_threads_take_turns(bench: Bench) -> None:
    def work(seed: int) -> None:
        for turn in range(15):
            x: Array = X + seed * 100 + turn
            array = bench.staged.run_on_device(feeds(x), ["y"])["y"]
            np.testing.assert_array_equal(bench.staged.run(feeds(array), ["y"])["y"], x * 4)

    in_threads([partial(work, seed) for seed in range(4)])
    gc.collect()
    bench.close()


def test_the_calls_are_those_of_onnxruntime() -> None:
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
    assert hasattr(ort.InferenceSession, "get_provider_options")


# Which of the two an engine gets


def opened(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda | None, *, told: str | None = None, refuses: bool = False,
           nodes: dict[str, int] | None = None) -> tuple[Any, str]:  # fmt: skip
    def open_gpu(device: str) -> OwnStream | str:
        def memory(device: str) -> FakeCuda:
            if cuda is None:
                raise MissingExtraError("the CUDA bindings cuda-python are not installed", cure="pip install it")
            return cuda

        return open_stream(device, open_memory=memory)

    def session(ort: Any, graph: Any, target: Any, threads: int, profile: Any = None, own: Any = None) -> Any:
        if own is not None and refuses:
            raise RuntimeError("Unknown provider option: `user_compute_stream`")
        given = dict(target.providers(own)[0][1])
        assert ("has_user_compute_stream" in given) == (own is not None)
        stream = given.get("user_compute_stream", "0")
        return Session(cuda or FakeCuda(), int(stream), told=told, nodes=nodes or {CUDA: 2})

    monkeypatch.setattr(ort_session, "open_stream", open_gpu)
    monkeypatch.setattr(ort_session, "open_session", session)
    _, binding, copies = ort_session.bound_session(FAKE_ORT, "g.onnx", parse_device("cuda"), 1, None)
    return binding, copies


def test_with_the_bindings_copies_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    binding, copies = opened(monkeypatch, cuda)
    assert isinstance(binding, OrtStaged)
    assert copies == "pinned, through fake"
    gc.collect()
    binding.close()
    assert cuda.closed
    binding, copies = opened(monkeypatch, FakeCuda(), nodes={CUDA: 2, CPU: 1})
    assert copies.startswith("pinned, through fake; the host waits")
    binding.close()


@pytest.mark.parametrize(
    ("how", "why"), [({"told": "0"}, "does not accept a stream"), ({"refuses": True}, "does not accept a stream")]
)
def test_a_session_that_does_not_take_the_stream_is_bound_as_before(
    monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], why: str
) -> None:
    cuda = FakeCuda()
    binding, copies = opened(monkeypatch, cuda, **how)
    assert not isinstance(binding, OrtStaged)
    assert copies.startswith("pageable: ")
    assert why in copies
    assert cuda.closed


def test_without_the_bindings_details_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    binding, copies = opened(monkeypatch, None)
    assert not isinstance(binding, OrtStaged)
    assert copies == "pageable: the CUDA bindings cuda-python are not installed"


def test_a_session_that_did_not_get_the_gpu_leaves_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    with pytest.raises(DeviceUnavailableError, match="no kernel for any node"):
        opened(monkeypatch, cuda, nodes={CPU: 2})
    assert cuda.closed


def test_the_engine_is_whole_with_it_and_closes_the_session_before_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr(ort_session, "open_stream", partial(open_stream, open_memory=lambda device: cuda))
    monkeypatch.setattr(backend, "require_device", lambda ort, target: None)

    def session(ort: Any, graph: Any, target: Any, threads: int, profile: Any = None, own: Any = None) -> Any:
        return Session(cuda, own.number, nodes={CUDA: 2})

    monkeypatch.setattr(ort_session, "open_session", session)
    raw = backend.OrtEngine(Path("g.onnx"), EngineOptions(device="cuda", threads=1))
    with Engine(raw, backend="onnxruntime", name="g.onnx") as engine:
        assert engine.on_device
        assert engine.device == "cuda:0"
        assert engine.details["copies to the host"] == "pinned, through fake"
        embedding = engine.run_on_device(feeds(engine.to_device(X)), ["y"])["y"]
        np.testing.assert_array_equal(engine.run(feeds(embedding))["z"], X * 6)
        del embedding
    assert cuda.closed

    # Nor is anything left of an engine that cannot be had after all.
    cuda = FakeCuda()
    monkeypatch.setattr(
        Session, "get_inputs", lambda self: [SimpleNamespace(name="x", type="tensor(string)", shape=[])]
    )
    with pytest.raises(EngineError, match="no numpy dtype"):
        backend.OrtEngine(Path("g.onnx"), EngineOptions(device="cuda", threads=1))
    assert cuda.closed
