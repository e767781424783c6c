"""`CudaMemory` through NVIDIA's ``cuda-python`` (package ``cuda-bindings``): the default provider.

The runtime API is used, which works in the device's primary context by itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from samedge.engines.cuda.memory import Gpu, PinnedBuffer, no_driver, no_such_gpu, out_of_memory
from samedge.errors import EngineError

_NON_BLOCKING: Final = 1  # cudaStreamNonBlocking
_NO_TIMING: Final = 2  # cudaEventDisableTiming


class _Pinned:
    def __init__(self, address: int, nbytes: int) -> None:
        self.address = address
        self.nbytes = nbytes
        memory = (ctypes.c_uint8 * nbytes).from_address(address)
        self._bytes: NDArray[np.uint8] = np.ctypeslib.as_array(memory)

    def view(self) -> NDArray[np.uint8]:
        return self._bytes


class CudaPythonMemory:
    """One GPU through cuda-python.

    Args:
        index: Number of the GPU.

    Raises:
        DeviceUnavailableError: There is no driver, or no such GPU.
    """

    provider = "cuda-python"
    captures = True

    def __init__(self, index: int) -> None:
        self._cuda: Any = _import_runtime()
        count = _device_count(self._cuda)
        if index >= count:
            raise no_such_gpu(index, count)
        properties = self._call("cudaGetDeviceProperties", index)
        name = properties.name
        self.gpu = Gpu(
            index=index,
            name=name.decode(errors="replace").rstrip("\0") if isinstance(name, bytes) else str(name),
            compute_capability=f"{properties.major}.{properties.minor}",
            multiprocessors=int(properties.multiProcessorCount),
            memory_bytes=int(properties.totalGlobalMem),
            integrated=bool(properties.integrated),
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU the thread's current one, and restores the one before: torch relies on it."""
        before = int(self._call("cudaGetDevice"))
        self._call("cudaSetDevice", self.gpu.index)
        try:
            yield
        finally:
            if before != self.gpu.index:
                self._call("cudaSetDevice", before)

    def free_bytes(self) -> int:
        """Free memory of the GPU."""
        free, _total = self._call("cudaMemGetInfo")
        return int(free)

    def allocate(self, nbytes: int) -> int:
        """Return the address of new device memory."""
        return int(self._call("cudaMalloc", max(1, nbytes), needed=nbytes))

    def free(self, address: int) -> None:
        """Free device memory."""
        self._call("cudaFree", address)

    def pin(self, nbytes: int) -> PinnedBuffer:
        """Return new pinned memory of the host."""
        size = max(1, nbytes)
        return _Pinned(int(self._call("cudaHostAlloc", size, 0, needed=nbytes)), size)

    def unpin(self, buffer: PinnedBuffer) -> None:
        """Free pinned memory."""
        self._call("cudaFreeHost", cast("_Pinned", buffer).address)

    def copy_in(self, address: int, buffer: PinnedBuffer, nbytes: int, stream: int) -> None:
        """Copy bytes from the host to the device, later."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, cast("_Pinned", buffer).address, nbytes, kind, stream)

    def copy_out(self, buffer: PinnedBuffer, address: int, nbytes: int, stream: int) -> None:
        """Copy bytes from the device to the host, later."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", cast("_Pinned", buffer).address, address, nbytes, kind, stream)

    def copy_across(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy bytes on the device, later."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, nbytes, kind, stream)

    def create_stream(self) -> int:
        """Return a new stream."""
        return int(self._call("cudaStreamCreateWithFlags", _NON_BLOCKING))

    def synchronise(self, stream: int) -> None:
        """Wait for a stream."""
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """End a stream."""
        self._call("cudaStreamDestroy", stream)

    def synchronise_all(self) -> None:
        """Wait for the whole GPU."""
        self._call("cudaDeviceSynchronize")

    def create_event(self) -> int:
        """Return a new event."""
        return int(self._call("cudaEventCreateWithFlags", _NO_TIMING))

    def record(self, event: int, stream: int) -> None:
        """Record an event."""
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        """Let a stream wait for an event."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def await_event(self, event: int) -> None:
        """Wait for an event."""
        self._call("cudaEventSynchronize", event)

    def destroy_event(self, event: int) -> None:
        """End an event."""
        self._call("cudaEventDestroy", event)

    def capture(self, stream: int, work: Callable[[], bool]) -> int | None:
        """Record work as a graph; None if it cannot be captured."""
        # Thread-local: other threads may allocate meanwhile without spoiling the capture.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            worked = work()
        except BaseException:
            self._end_capture(stream)
            raise
        executable = self._end_capture(stream, instantiate=worked)
        return executable if worked else None

    def _end_capture(self, stream: int, *, instantiate: bool = False) -> int | None:
        """End a capture whatever became of it: a stream that is left capturing takes no other work."""
        error, graph = self._cuda.cudaStreamEndCapture(stream)
        if int(error) != 0 or not int(graph):  # the graph is null where the capture was spoiled
            self._forget_error()
            return None
        try:
            # Not cudaGraphInstantiate: before CUDA 12 that took other arguments.
            return int(self._call("cudaGraphInstantiateWithFlags", graph, 0)) if instantiate else None
        except EngineError:
            return None
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """Give a graph to a stream."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """End a graph."""
        self._call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Nothing to do: the primary context belongs to the process."""

    def _call(self, name: str, *arguments: Any, needed: int = 0) -> Any:
        """Call the runtime and returns what it gives beside its status, one value or a tuple.

        Raises:
            EngineError: The status is not success.
        """
        error, *results = getattr(self._cuda, name)(*arguments)
        if int(error) == 0:
            return results[0] if len(results) == 1 else tuple(results)
        self._forget_error()
        if error == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
            raise out_of_memory("pinned memory" if name == "cudaHostAlloc" else "GPU memory", needed)
        _, text = self._cuda.cudaGetErrorString(error)
        cause = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        raise EngineError(
            f"{name} failed: {cause}",
            cure="Start the program again: after such an error a GPU's context cannot be used",
            code=int(error),
        )

    def _forget_error(self) -> None:
        """CUDA keeps an error for whoever asks next, which would be somebody who has nothing to do with it."""
        self._cuda.cudaGetLastError()


def _import_runtime() -> Any:
    try:
        return import_module("cuda.bindings.runtime")
    except ModuleNotFoundError:
        return import_module("cuda.cudart")  # its name before 12.6
    except (ImportError, OSError, RuntimeError) as error:
        raise no_driver(str(error)) from error


def _device_count(cuda: Any) -> int:
    try:
        error, count = cuda.cudaGetDeviceCount()
    except RuntimeError as problem:  # the driver's library cannot be found
        raise no_driver(str(problem)) from problem
    if int(error) == 0:
        return int(count)
    if error == cuda.cudaError_t.cudaErrorNoDevice:
        raise no_such_gpu(0, 0)
    _, text = cuda.cudaGetErrorString(error)
    raise no_driver(text.decode(errors="replace") if isinstance(text, bytes) else str(text))
