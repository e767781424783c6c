# ruff: noqa: D102 - these methods are documented by `CudaMemory`
"""`CudaMemory` through NVIDIA's ``cuda-python`` (package ``cuda-bindings``): the default provider.

The runtime API is used, which works in the device's primary context.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from samedge.engines.cuda.memory import Gpu, PinnedBuffer, no_driver, no_such_gpu, old_driver, out_of_memory
from samedge.errors import EngineError

_NON_BLOCKING: Final = 1  # cudaStreamNonBlocking
_NO_TIMING: Final = 2  # cudaEventDisableTiming
_INSUFFICIENT_DRIVER: Final = 35  # cudaErrorInsufficientDriver


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
        index: Index of the GPU.

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
        before = int(self._call("cudaGetDevice"))
        self._call("cudaSetDevice", self.gpu.index)
        try:
            yield
        finally:
            if before != self.gpu.index:
                self._call("cudaSetDevice", before)

    def free_bytes(self) -> int:
        free, _total = self._call("cudaMemGetInfo")
        return int(free)

    def allocate(self, nbytes: int) -> int:
        return int(self._call("cudaMalloc", max(1, nbytes), needed=nbytes))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def pin(self, nbytes: int) -> PinnedBuffer:
        size = max(1, nbytes)
        return _Pinned(int(self._call("cudaHostAlloc", size, 0, needed=nbytes)), size)

    def unpin(self, buffer: PinnedBuffer) -> None:
        self._call("cudaFreeHost", cast("_Pinned", buffer).address)

    def copy_in(self, address: int, buffer: PinnedBuffer, nbytes: int, stream: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, cast("_Pinned", buffer).address, nbytes, kind, stream)

    def copy_out(self, buffer: PinnedBuffer, address: int, nbytes: int, stream: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", cast("_Pinned", buffer).address, address, nbytes, kind, stream)

    def copy_across(self, target: int, source: int, nbytes: int, stream: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, nbytes, kind, stream)

    def create_stream(self) -> int:
        return int(self._call("cudaStreamCreateWithFlags", _NON_BLOCKING))

    def synchronise(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def synchronise_all(self) -> None:
        self._call("cudaDeviceSynchronize")

    def create_event(self) -> int:
        return int(self._call("cudaEventCreateWithFlags", _NO_TIMING))

    def record(self, event: int, stream: int) -> None:
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def await_event(self, event: int) -> None:
        self._call("cudaEventSynchronize", event)

    def destroy_event(self, event: int) -> None:
        self._call("cudaEventDestroy", event)

    def capture(self, stream: int, work: Callable[[], bool]) -> int | None:
        # Thread-local: allocations by other threads do not invalidate the capture.
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
        """End a capture in any case: a stream left capturing accepts no other work."""
        error, graph = self._cuda.cudaStreamEndCapture(stream)
        if int(error) != 0 or not int(graph):  # the graph is null if the capture was invalidated
            self._forget_error()
            return None
        try:
            # Not cudaGraphInstantiate: its arguments differ before CUDA 12.
            return int(self._call("cudaGraphInstantiateWithFlags", graph, 0)) if instantiate else None
        except EngineError:
            return None
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Do nothing: the primary context belongs to the process."""

    def _call(self, name: str, *arguments: Any, needed: int = 0) -> Any:
        """Call the runtime and return its results besides the status: one value or a tuple."""
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
            cure="Restart the program: the GPU's context is unusable after such an error",
            code=int(error),
        )

    def _forget_error(self) -> None:
        """Clear CUDA's last error, which would otherwise surface in unrelated code."""
        self._cuda.cudaGetLastError()


def _import_runtime() -> Any:
    try:
        return import_module("cuda.bindings.runtime")
    except ModuleNotFoundError:
        return import_module("cuda.cudart")  # the name before 12.6
    except (ImportError, OSError, RuntimeError) as error:
        raise no_driver(str(error)) from error


def _device_count(cuda: Any) -> int:
    try:
        error, count = cuda.cudaGetDeviceCount()
    except RuntimeError as problem:  # the driver's library is missing
        raise no_driver(str(problem)) from problem
    if int(error) == 0:
        return int(count)
    if error == cuda.cudaError_t.cudaErrorNoDevice:
        raise no_such_gpu(0, 0)
    if int(error) == _INSUFFICIENT_DRIVER:
        raise old_driver(int(cuda.cudaDriverGetVersion()[1]), int(cuda.cudaRuntimeGetVersion()[1]))
    _, text = cuda.cudaGetErrorString(error)
    raise no_driver(text.decode(errors="replace") if isinstance(text, bytes) else str(text))
