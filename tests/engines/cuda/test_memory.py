"""The fake GPU notices each misuse; the two providers make the right calls; without a driver both say so."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from samedge.engines.cuda import cuda_python
from samedge.engines.cuda.cuda_python import CudaPythonMemory
from samedge.engines.cuda.memory import LEGACY_STREAM, CudaMemory, Gpu, as_bytes, device_index
from samedge.engines.cuda.providers import open_cuda
from samedge.engines.cuda.pycuda import PycudaMemory
from samedge.errors import DeviceUnavailableError, EngineError, MissingExtraError
from samedge.testing.cuda import FakeCuda
from samedge.testing.cuda_state import CudaMisuseError

Misuse = Callable[[FakeCuda], object]


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda(memory_bytes=1 << 20)


def round_trip(memory: CudaMemory, data: bytes) -> bytes:
    """Host to device, across, and back, as a runner would, with everything freed."""
    n = len(data)
    with memory.current():
        stream = memory.create_stream()
        first, second = memory.allocate(n), memory.allocate(n)
        there, back = memory.pin(n), memory.pin(n)
        there.view()[:n] = np.frombuffer(data, np.uint8)
        memory.copy_in(first, there, n, stream)
        memory.copy_across(second, first, n, stream)
        memory.copy_out(back, second, n, stream)
        memory.synchronise(stream)
        result = back.view()[:n].tobytes()
        for address in (first, second):
            memory.free(address)
        for buffer in (there, back):
            memory.unpin(buffer)
        memory.destroy_stream(stream)
    memory.close()
    return result


def test_data_goes_there_and_back(cuda: FakeCuda) -> None:
    assert round_trip(cuda, b"hello") == b"hello"
    assert cuda.closed


def test_nothing_happens_before_somebody_synchronises(cuda: FakeCuda) -> None:
    with cuda.current():
        stream, address, buffer = cuda.create_stream(), cuda.allocate(4), cuda.pin(4)
        kept = buffer.view()
        kept[:] = 7
        cuda.copy_in(address, buffer, 4, stream)
        cuda.copy_out(buffer, address, 4, stream)
        assert not (kept == 7).any()
        cuda.synchronise(stream)


def _freed_twice(cuda: FakeCuda) -> None:
    address = cuda.allocate(4)
    cuda.free(address)
    cuda.free(address)


def _unpinned_twice(cuda: FakeCuda) -> None:
    buffer = cuda.pin(4)
    cuda.unpin(buffer)
    cuda.unpin(buffer)


def _used_after_free(cuda: FakeCuda) -> None:
    address = cuda.allocate(4)
    cuda.free(address)
    cuda.copy_in(address, cuda.pin(4), 4, cuda.create_stream())


def _view_after_unpin(cuda: FakeCuda) -> None:
    buffer = cuda.pin(4)
    cuda.unpin(buffer)
    buffer.view()


def _beyond_the_end(cuda: FakeCuda) -> None:
    cuda.copy_in(cuda.allocate(4), cuda.pin(8), 8, cuda.create_stream())


def _read_too_early(cuda: FakeCuda) -> None:
    buffer = cuda.pin(4)
    cuda.copy_out(buffer, cuda.allocate(4), 4, cuda.create_stream())
    buffer.view()


def _written_too_early(cuda: FakeCuda) -> None:
    buffer, address, stream = cuda.pin(4), cuda.allocate(4), cuda.create_stream()
    buffer.view()[:] = 1
    cuda.copy_in(address, buffer, 4, stream)
    buffer.view()[:] = 2


def _freed_under_a_copy(cuda: FakeCuda) -> None:
    address = cuda.allocate(4)
    cuda.copy_in(address, cuda.pin(4), 4, cuda.create_stream())
    cuda.free(address)


def _stream_ends_early(cuda: FakeCuda) -> None:
    stream = cuda.create_stream()
    cuda.copy_in(cuda.allocate(4), cuda.pin(4), 4, stream)
    cuda.destroy_stream(stream)


def _two_streams(cuda: FakeCuda) -> None:
    address = cuda.allocate(4)
    cuda.copy_in(address, cuda.pin(4), 4, cuda.create_stream())
    cuda.copy_out(cuda.pin(4), address, 4, cuda.create_stream())


def _graph_of_freed_memory(cuda: FakeCuda) -> None:
    stream, address, other = cuda.create_stream(), cuda.allocate(4), cuda.allocate(4)

    def work() -> bool:
        cuda.copy_across(address, other, 4, stream)
        return True

    graph = cuda.capture(stream, work)
    assert graph is not None
    cuda.free(address)
    cuda.launch(graph, stream)


def _graph_destroyed_at_work(cuda: FakeCuda) -> None:
    stream, address, other = cuda.create_stream(), cuda.allocate(4), cuda.allocate(4)

    def work() -> bool:
        cuda.copy_across(address, other, 4, stream)
        return True

    graph = cuda.capture(stream, work)
    assert graph is not None
    cuda.launch(graph, stream)
    cuda.destroy_graph(graph)


def _allocated_while_captured(cuda: FakeCuda) -> None:
    cuda.capture(cuda.create_stream(), lambda: bool(cuda.allocate(4)))


MISUSES: list[tuple[Misuse, str]] = [
    (_freed_twice, "freed twice"),
    (_unpinned_twice, "freed twice"),
    (_used_after_free, "was freed"),
    (_view_after_unpin, "after it was freed"),
    (_beyond_the_end, "reach beyond device memory"),
    (_read_too_early, "touches pinned memory .* while copy_out is in progress: synchronise first"),
    (_written_too_early, "while copy_in is in progress"),
    (_freed_under_a_copy, "freed while copy_in still needs it"),
    (_stream_ends_early, "is destroyed while work is in progress"),
    (_two_streams, "put an event between them"),
    (_graph_of_freed_memory, "after it was freed"),
    (_graph_destroyed_at_work, "destroyed while it is running"),
    (_allocated_while_captured, "allocate while work is captured"),
    (lambda cuda: cuda.free(123), "never allocated"),
    (lambda cuda: cuda.synchronise(99), "no stream 99"),
    (lambda cuda: cuda.wait(cuda.create_stream(), 99), "no event 99"),
    (lambda cuda: cuda.launch(99, cuda.create_stream()), "no graph 99"),
    (lambda cuda: cuda.destroy_graph(99), "destroyed twice"),
]


@pytest.mark.parametrize(("misuse", "message"), MISUSES)
def test_each_misuse_is_noticed(cuda: FakeCuda, misuse: Misuse, message: str) -> None:
    with cuda.current(), pytest.raises(CudaMisuseError, match=message):
        misuse(cuda)


def test_calls_outside_the_context_and_after_close_are_noticed(cuda: FakeCuda) -> None:
    with pytest.raises(CudaMisuseError, match="outside the context"):
        cuda.allocate(4)
    cuda.close()
    with cuda.current(), pytest.raises(CudaMisuseError, match="allocate after close"):
        cuda.allocate(4)
    with pytest.raises(CudaMisuseError, match="closed twice"):
        cuda.close()


def test_leaks_are_named(cuda: FakeCuda) -> None:
    with cuda.current():
        cuda.allocate(4)
        cuda.pin(8)
        stream = cuda.create_stream()
        event = cuda.create_event()
        graph = cuda.capture(stream, lambda: True)
    assert cuda.leaks() == [
        "device memory 1 of 4 bytes",
        "pinned memory 2 of 8 bytes",
        f"stream {stream}",
        f"event {event}",
        f"graph {graph}",
    ]
    with pytest.raises(CudaMisuseError, match="not freed: device memory 1 of 4 bytes"):
        cuda.close()


def test_an_event_orders_two_streams(cuda: FakeCuda) -> None:
    with cuda.current():
        address, there, back = cuda.allocate(4), cuda.pin(4), cuda.pin(4)
        first, second, event = cuda.create_stream(), cuda.create_stream(), cuda.create_event()
        there.view()[:] = 9
        cuda.copy_in(address, there, 4, first)
        cuda.record(event, first)
        cuda.wait(second, event)
        cuda.copy_out(back, address, 4, second)
        cuda.synchronise(second)
        assert (back.view() == 9).all()
        # What came after the event is not covered by it.
        cuda.copy_in(address, there, 4, first)
        with pytest.raises(CudaMisuseError, match="event between"):
            cuda.copy_out(back, address, 4, second)


def test_who_waits_for_an_event_gets_what_came_before_it_and_no_more(cuda: FakeCuda) -> None:
    with cuda.current():
        address, there, back = cuda.allocate(4), cuda.pin(4), cuda.pin(4)
        first, second, event, later = cuda.create_stream(), cuda.create_stream(), cuda.create_event(), cuda.pin(4)
        there.view()[:] = 9
        cuda.copy_in(address, there, 4, first)
        cuda.record(event, first)
        cuda.wait(second, event)
        cuda.wait(first, event)
        cuda.copy_out(back, address, 4, second)
        cuda.record(event, second)
        cuda.wait(first, event)
        cuda.copy_out(later, address, 4, first)
        cuda.await_event(event)
        assert (back.view() == 9).all()
        with pytest.raises(CudaMisuseError, match="while copy_out is in progress"):
            later.view()
        cuda.synchronise_all()
        assert (later.view() == 9).all()
        cuda.await_event(cuda.create_event())  # never recorded


def test_threads_capture_without_disturbing_each_other(cuda: FakeCuda) -> None:
    def elsewhere() -> None:
        with cuda.current():
            places.append(cuda.allocate(4))

    def work() -> bool:
        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()
        cuda.copy_across(address, other, 4, stream)
        return True

    places: list[int] = []
    with cuda.current():
        stream, address, other = cuda.create_stream(), cuda.allocate(4), cuda.allocate(4)
        assert cuda.capture(stream, work) is not None
    assert len(places) == 1
    assert cuda.captured == 1


def test_addresses_are_aligned_as_a_gpus_are(cuda: FakeCuda) -> None:
    with cuda.current():
        assert all(cuda.allocate(nbytes) % 256 == 0 for nbytes in (1, 5, 256, 257))


def test_a_graph_does_its_work_each_time_and_not_while_it_is_captured(cuda: FakeCuda) -> None:
    with cuda.current():
        stream, address, there, back = cuda.create_stream(), cuda.allocate(1), cuda.pin(1), cuda.pin(1)
        there.view()[:] = 0
        cuda.copy_in(address, there, 1, stream)

        def more() -> None:
            cuda.device_bytes(address, 1)[:] += 1

        def work() -> bool:
            cuda.run_kernel("more", stream, more, reads=[(address, 1)], writes=[(address, 1)])
            return True

        graph = cuda.capture(stream, work)
        assert graph is not None
        for _ in range(3):
            cuda.launch(graph, stream)
        cuda.copy_out(back, address, 1, stream)
        cuda.synchronise(stream)
        assert back.view()[0] == 3
        assert cuda.launches == 3
        assert cuda.capture(stream, lambda: False) is None


def test_memory_runs_out_with_a_cure(cuda: FakeCuda) -> None:
    with cuda.current(), pytest.raises(EngineError, match=r"not enough GPU memory for 2\.1 MB.*Close other") as caught:
        cuda.allocate(2 << 20)
    assert caught.value.needed == 2 << 20


@pytest.mark.parametrize(("device", "index"), [(None, 0), ("cuda", 0), ("CUDA:2", 2), ("gpu:1", 1)])
def test_devices_are_numbers(device: str | None, index: int) -> None:
    assert device_index(device) == index


@pytest.mark.parametrize("device", ["cpu", "cuda:x", "cuda:", "dla:0"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(DeviceUnavailableError, match=device) as caught:
        device_index(device)
    assert caught.value.cure


def test_a_provider_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samedge.engines.cuda.providers._found", lambda name: False)
    with pytest.raises(MissingExtraError, match=r"cuda-python are not installed.*pip install cuda-bindings"):
        open_cuda()
    with pytest.raises(MissingExtraError, match="pycuda"):
        open_cuda(provider="pycuda")


def test_the_bytes_of_an_array_are_a_view() -> None:
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    as_bytes(array)[:] = 0
    assert not array.any()
    assert as_bytes(np.empty((0, 3), np.float32)).shape == (0,)


# cuda-python


def test_without_a_driver_cuda_python_says_so() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    with suppress(RuntimeError):
        if int(runtime.cudaGetDeviceCount()[0]) == 0:
            pytest.skip("there is a GPU here")
    with pytest.raises(DeviceUnavailableError, match="driver") as caught:
        open_cuda("cuda:0", "cuda-python")
    assert "nvidia-smi" in str(caught.value)


def test_cuda_python_has_every_call_that_is_used() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    used = FakeRuntime()
    for name in dir(used):
        if name.startswith("cuda"):
            assert hasattr(runtime, name), name
    assert int(runtime.cudaMemcpyKind.cudaMemcpyHostToDevice) == 1
    assert int(runtime.cudaError_t.cudaErrorMemoryAllocation) == 2


def test_the_real_bindings_take_every_argument() -> None:
    """Without a driver each call gets as far as the driver: what is passed could be converted."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    with suppress(RuntimeError):
        if int(runtime.cudaGetDeviceCount()[0]) == 0:
            pytest.skip("there is a GPU here")
    memory = CudaPythonMemory.__new__(CudaPythonMemory)
    memory._cuda = runtime
    host = (ctypes.c_uint8 * 64)()
    pinned = cuda_python._Pinned(ctypes.addressof(host), 64)
    address, stream, event, graph = 1 << 32, 77, 88, 66
    calls: list[Callable[[], object]] = [
        lambda: memory.allocate(4),
        lambda: memory.free(address),
        lambda: memory.pin(4),
        lambda: memory.unpin(pinned),
        lambda: memory.copy_in(address, pinned, 4, stream),
        lambda: memory.copy_out(pinned, address, 4, stream),
        lambda: memory.copy_across(address, 1 << 33, 4, stream),
        memory.free_bytes,
        memory.create_stream,
        lambda: memory.synchronise(stream),
        lambda: memory.destroy_stream(stream),
        memory.synchronise_all,
        memory.create_event,
        lambda: memory.record(event, stream),
        lambda: memory.record(event, LEGACY_STREAM),
        lambda: memory.wait(stream, event),
        lambda: memory.await_event(event),
        lambda: memory.destroy_event(event),
        lambda: memory.capture(stream, lambda: True),
        lambda: memory._call("cudaGraphInstantiateWithFlags", runtime.cudaGraph_t(55), 0),
        lambda: memory._call("cudaGraphDestroy", runtime.cudaGraph_t(55)),
        lambda: memory.launch(graph, stream),
        lambda: memory.destroy_graph(graph),
    ]
    for call in calls:
        with pytest.raises(EngineError, match="driver"):
            call()


class FakeRuntime:
    """cuda.bindings.runtime over host memory: every call returns a status first."""

    def __init__(self, count: int = 2) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.count = count
        self.device = 0
        self.fail: dict[str, int] = {}
        self.buffers: dict[int, Any] = {}
        self.cudaError_t = SimpleNamespace(cudaErrorMemoryAllocation=2, cudaErrorNoDevice=100)
        self.cudaMemcpyKind = SimpleNamespace(
            cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
        )
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def _do(self, name: str, *results: Any) -> tuple[Any, ...]:
        self.calls.append((name, *results))
        status = self.fail.get(name, 0)
        return (status, *((None for _ in results) if status else results))

    def _new(self, nbytes: int) -> int:
        buffer = (ctypes.c_uint8 * nbytes)()
        self.buffers[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def cudaGetDeviceCount(self) -> Any:
        return self._do("cudaGetDeviceCount", self.count)

    def cudaGetDeviceProperties(self, device: int) -> Any:
        properties = SimpleNamespace(
            name=b"Orin\0\0", major=8, minor=7, multiProcessorCount=16, totalGlobalMem=1 << 33, integrated=1
        )
        return self._do("cudaGetDeviceProperties", properties)

    def cudaDriverGetVersion(self) -> Any:
        return 0, 12060

    def cudaRuntimeGetVersion(self) -> Any:
        return 0, 13000

    def cudaGetErrorString(self, error: int) -> Any:
        return 0, b"something is wrong"

    def cudaGetDevice(self) -> Any:
        return self._do("cudaGetDevice", self.device)

    def cudaSetDevice(self, device: int) -> Any:
        self.device = device
        return self._do("cudaSetDevice")

    def cudaMemGetInfo(self) -> Any:
        return self._do("cudaMemGetInfo", 5, 9)

    def cudaMalloc(self, size: int) -> Any:
        return self._do("cudaMalloc", self._new(size))

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        return self._do("cudaHostAlloc", self._new(size))

    def cudaFree(self, address: int) -> Any:
        del self.buffers[address]
        return self._do("cudaFree")

    def cudaFreeHost(self, address: int) -> Any:
        del self.buffers[address]
        return self._do("cudaFreeHost")

    def cudaMemcpyAsync(self, target: int, source: int, count: int, kind: int, stream: int) -> Any:
        ctypes.memmove(target, source, count)
        return self._do("cudaMemcpyAsync")

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        return self._do("cudaStreamCreateWithFlags", 77)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        return self._do("cudaStreamSynchronize")

    def cudaStreamDestroy(self, stream: int) -> Any:
        return self._do("cudaStreamDestroy")

    def cudaEventCreateWithFlags(self, flags: int) -> Any:
        return self._do("cudaEventCreateWithFlags", 88)

    def cudaEventRecord(self, event: int, stream: int) -> Any:
        return self._do("cudaEventRecord")

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> Any:
        return self._do("cudaStreamWaitEvent")

    def cudaEventDestroy(self, event: int) -> Any:
        return self._do("cudaEventDestroy")

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> Any:
        return self._do("cudaStreamBeginCapture")

    def cudaStreamEndCapture(self, stream: int) -> Any:
        return self._do("cudaStreamEndCapture", 55)

    def cudaGraphInstantiateWithFlags(self, graph: int, flags: int) -> Any:
        return self._do("cudaGraphInstantiateWithFlags", 66)

    def cudaGetLastError(self) -> Any:
        return self._do("cudaGetLastError")

    def cudaDeviceSynchronize(self) -> Any:
        return self._do("cudaDeviceSynchronize")

    def cudaEventSynchronize(self, event: int) -> Any:
        return self._do("cudaEventSynchronize")

    def cudaGraphDestroy(self, graph: int) -> Any:
        return self._do("cudaGraphDestroy")

    def cudaGraphLaunch(self, graph: int, stream: int) -> Any:
        return self._do("cudaGraphLaunch")

    def cudaGraphExecDestroy(self, graph: int) -> Any:
        return self._do("cudaGraphExecDestroy")


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake = FakeRuntime()
    monkeypatch.setattr(cuda_python, "_import_runtime", lambda: fake)
    return fake


def test_cuda_python_describes_the_gpu_and_moves_data(runtime: FakeRuntime) -> None:
    memory = CudaPythonMemory(1)
    assert memory.gpu == Gpu(1, "Orin", "8.7", 16, 1 << 33, integrated=True)
    assert round_trip(memory, b"hello") == b"hello"
    assert runtime.buffers == {}
    assert runtime.device == 0  # as it was before
    with memory.current():
        assert runtime.device == 1
        assert memory.free_bytes() == 5
        event = memory.create_event()
        memory.record(event, 77)
        memory.wait(77, event)
        memory.await_event(event)
        memory.synchronise_all()
        memory.destroy_event(event)
    names = [call[0] for call in runtime.calls]
    assert names[-4:] == ["cudaEventSynchronize", "cudaDeviceSynchronize", "cudaEventDestroy", "cudaSetDevice"]


def test_cuda_python_captures_graphs(runtime: FakeRuntime) -> None:
    memory = CudaPythonMemory(0)
    with memory.current():
        assert memory.capture(77, lambda: True) == 66
        memory.launch(66, 77)
        memory.destroy_graph(66)
        assert memory.capture(77, lambda: False) is None
        runtime.fail = {"cudaGraphInstantiateWithFlags": 900}
        assert memory.capture(77, lambda: True) is None
        runtime.fail = {"cudaStreamEndCapture": 901}
        assert memory.capture(77, lambda: True) is None
        names = [call[0] for call in runtime.calls]
        assert names.count("cudaStreamBeginCapture") == names.count("cudaStreamEndCapture") == 4
        assert names.count("cudaGraphDestroy") == 3
        assert names.count("cudaGetLastError") == 2  # nobody else is to find these errors


def test_work_that_raises_leaves_no_capture_open_and_no_graph_behind(runtime: FakeRuntime) -> None:
    memory = CudaPythonMemory(0)

    def work() -> bool:
        raise ValueError("in the middle")

    with memory.current(), pytest.raises(ValueError, match="in the middle"):
        memory.capture(77, work)
    names = [call[0] for call in runtime.calls]
    assert names[-3:] == ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphDestroy"]


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("cudaMalloc", 2, r"not enough GPU memory for 0\.0 MB"),
        ("cudaMalloc", 700, "cudaMalloc failed: something is wrong"),
        ("cudaHostAlloc", 2, "not enough pinned memory"),
    ],
)
def test_cuda_pythons_statuses_are_errors(runtime: FakeRuntime, name: str, status: int, message: str) -> None:
    memory = CudaPythonMemory(0)
    runtime.fail = {name: status}
    with memory.current(), pytest.raises(EngineError, match=message) as caught:
        (memory.pin if name == "cudaHostAlloc" else memory.allocate)(8)
    assert caught.value.cure


@pytest.mark.parametrize(
    ("count", "fail", "message"),
    [
        (2, {}, "no GPU 5: 2 visible"),
        (0, {"cudaGetDeviceCount": 100}, "none visible"),
        (0, {"cudaGetDeviceCount": 35}, "are for CUDA 13.0, and this driver is for CUDA 12.6"),
        (0, {"cudaGetDeviceCount": 999}, "no working NVIDIA driver .something is wrong"),
    ],
)
def test_gpus_that_are_not_there(runtime: FakeRuntime, count: int, fail: dict[str, int], message: str) -> None:
    runtime.count, runtime.fail = count, fail
    with pytest.raises(DeviceUnavailableError, match=message):
        CudaPythonMemory(5)


# pycuda


class FakePycuda(ModuleType):
    """pycuda.driver over host memory."""

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.depth = 0
        self.retained = 0
        self.limit = 1 << 20
        self.live = 0
        self.synchronised = 0
        fake = self

        class Context:
            def push(self) -> None:
                fake.depth += 1

            def pop(self) -> None:
                fake.depth -= 1

            @staticmethod
            def synchronize() -> None:
                fake.inside()
                fake.synchronised += 1

        class Device:
            def __init__(self, index: int) -> None:
                self.index = index

            @staticmethod
            def count() -> int:
                return 1

            def name(self) -> str:
                return "Xavier"

            def compute_capability(self) -> tuple[int, int]:
                return 7, 2

            def get_attribute(self, attribute: int) -> int:
                return attribute

            def total_memory(self) -> int:
                return 1 << 30

            def retain_primary_context(self) -> Context:
                fake.retained += 1
                return Context()

        class Allocation:
            def __init__(self, nbytes: int) -> None:
                fake.inside()
                if nbytes > fake.limit:
                    raise fake.MemoryError
                self.buffer = (ctypes.c_uint8 * nbytes)()
                fake.live += 1

            def __int__(self) -> int:
                return ctypes.addressof(self.buffer)

            def free(self) -> None:
                fake.live -= 1

        class Stream:
            def __init__(self, flags: int = 0) -> None:
                fake.inside()
                assert flags == 1  # CU_STREAM_NON_BLOCKING; pycuda has no stream_flags
                self.handle = 1000 + flags

            def synchronize(self) -> None:
                fake.inside()

            def wait_for_event(self, event: Event) -> None:
                assert event.recorded

        class Event:
            def __init__(self, flags: int) -> None:
                self.recorded = False

            def record(self, stream: Stream | None) -> None:
                self.recorded = True

            def synchronize(self) -> None:
                fake.synchronised += 1

        self.Context = Context
        self.Device, self.Stream, self.Event, self.mem_alloc = Device, Stream, Event, Allocation
        self.device_attribute = SimpleNamespace(MULTIPROCESSOR_COUNT=8, INTEGRATED=1)
        self.event_flags = SimpleNamespace(DISABLE_TIMING=2)

    def inside(self) -> None:
        if not self.depth:
            raise self.Error("invalid device context")

    def init(self) -> None:
        pass

    def mem_get_info(self) -> tuple[int, int]:
        return 3, 4

    def pagelocked_empty(self, size: int, dtype: Any) -> Any:
        return np.empty(size, dtype)

    def memcpy_htod_async(self, target: int, source: Any, stream: Any) -> None:
        self.inside()
        ctypes.memmove(target, source.ctypes.data, source.nbytes)

    def memcpy_dtoh_async(self, target: Any, source: int, stream: Any) -> None:
        self.inside()
        ctypes.memmove(target.ctypes.data, source, target.nbytes)

    def memcpy_dtod_async(self, target: int, source: int, size: int, stream: Any) -> None:
        self.inside()
        ctypes.memmove(target, source, size)


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> FakePycuda:
    fake = FakePycuda()
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    return fake


def test_pycuda_keeps_the_primary_context_and_moves_data(pycuda: FakePycuda) -> None:
    memory = PycudaMemory(0)
    assert memory.gpu == Gpu(0, "Xavier", "7.2", 8, 1 << 30, integrated=True)
    assert round_trip(memory, b"hello") == b"hello"
    assert (pycuda.depth, pycuda.live) == (0, 0)
    assert round_trip(PycudaMemory(0), b"again") == b"again"
    assert pycuda.retained == 1  # by the process, not by each object, and never let go
    assert "pycuda.autoinit" not in sys.modules


def test_pycudas_errors_and_limits(pycuda: FakePycuda) -> None:
    memory = PycudaMemory(0)
    with pytest.raises(EngineError, match="CUDA failed: invalid device context"):
        memory.create_stream()
    with memory.current():
        assert memory.free_bytes() == 3
        with pytest.raises(EngineError, match="not enough GPU memory"):
            memory.allocate(2 << 20)
        stream, event = memory.create_stream(), memory.create_event()
        memory.record(event, stream)
        memory.wait(stream, event)
        other = PycudaMemory(0)  # events are of the GPU, not of the object that made them
        theirs = other.create_stream()
        other.wait(theirs, event)
        assert pycuda.synchronised == 0
        memory.record(event, LEGACY_STREAM)
        memory.wait(LEGACY_STREAM, event)  # pycuda did not make it: the host waits
        memory.await_event(event)
        memory.synchronise_all()
        assert pycuda.synchronised == 3
        memory.destroy_event(event)
        assert memory.capture(stream, lambda: True) is None
        with pytest.raises(EngineError, match="no CUDA graphs"):
            memory.launch(1, stream)
        buffer = memory.pin(4)
        memory.unpin(buffer)
        with pytest.raises(EngineError, match="is freed"):
            buffer.view()
    with pytest.raises(DeviceUnavailableError, match="no GPU 3: 1 visible"):
        PycudaMemory(3)


def test_pycuda_without_a_driver_says_so(pycuda: FakePycuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pycuda.Error("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(pycuda, "init", fail)
    with pytest.raises(DeviceUnavailableError, match="no CUDA-capable device"):
        PycudaMemory(0)
