# ruff: noqa: D102 - these methods are documented by `CudaMemory`
"""`CudaMemory` through ``pycuda``: the second provider, for boards where it is already installed.

The device's primary context is retained once per process and made current for each block. It is never released: pycuda
leaves a detached context on the thread's stack, and does not release one retained by another thread.
``pycuda.autoinit`` is never imported: it creates a private context, shared with neither torch nor other threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Lock
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from samedge.engines.cuda.memory import LEGACY_STREAM, Gpu, PinnedBuffer, no_driver, no_such_gpu, out_of_memory
from samedge.errors import EngineError

_CONTEXTS: Final[dict[tuple[Any, int], Any]] = {}
"""Primary context of each GPU."""
_CONTEXTS_LOCK: Final = Lock()
_EVENTS: Final[dict[int, Any]] = {}
"""Events of all objects by number: engines wait for each other's events."""
_NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING, for which pycuda has no name."""


class _Pinned:
    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array: NDArray[np.uint8] | None = array
        self.nbytes = array.nbytes

    def view(self) -> NDArray[np.uint8]:
        if self.array is None:
            raise EngineError("this pinned memory is freed", cure="Allocate it again with pin")
        return self.array


class PycudaMemory:
    """One GPU through pycuda.

    Args:
        index: Index of the GPU.

    Raises:
        DeviceUnavailableError: There is no driver, or no such GPU.
    """

    provider = "pycuda"
    captures = False  # pycuda has no CUDA graphs

    def __init__(self, index: int) -> None:
        try:
            self._cuda: Any = import_module("pycuda.driver")
            self._cuda.init()
        except (ImportError, OSError) as error:
            raise no_driver(str(error)) from error
        except Exception as error:  # pycuda's errors exist only once it is imported
            raise no_driver(str(error)) from error
        count = int(self._cuda.Device.count())
        if index >= count:
            raise no_such_gpu(index, count)
        device = self._cuda.Device(index)
        attributes = self._cuda.device_attribute
        major, minor = device.compute_capability()
        self.gpu = Gpu(
            index=index,
            name=str(device.name()),
            compute_capability=f"{major}.{minor}",
            multiprocessors=int(device.get_attribute(attributes.MULTIPROCESSOR_COUNT)),
            memory_bytes=int(device.total_memory()),
            integrated=bool(device.get_attribute(attributes.INTEGRATED)),
        )
        with _CONTEXTS_LOCK:
            if (self._cuda, index) not in _CONTEXTS:
                _CONTEXTS[self._cuda, index] = device.retain_primary_context()
            self._context: Any = _CONTEXTS[self._cuda, index]
        self._allocations: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    @contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def free_bytes(self) -> int:
        free, _total = self._cuda.mem_get_info()
        return int(free)

    def allocate(self, nbytes: int) -> int:
        with self._errors("GPU memory", nbytes):
            allocation = self._cuda.mem_alloc(max(1, nbytes))
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        with self._errors():
            self._allocations.pop(address).free()

    def pin(self, nbytes: int) -> PinnedBuffer:
        with self._errors("pinned memory", nbytes):
            return _Pinned(self._cuda.pagelocked_empty(max(1, nbytes), np.uint8))

    def unpin(self, buffer: PinnedBuffer) -> None:
        # pycuda frees the array's memory with it, in the current context.
        cast("_Pinned", buffer).array = None

    def copy_in(self, address: int, buffer: PinnedBuffer, nbytes: int, stream: int) -> None:
        with self._errors():
            self._cuda.memcpy_htod_async(address, buffer.view()[:nbytes], self._streams[stream])

    def copy_out(self, buffer: PinnedBuffer, address: int, nbytes: int, stream: int) -> None:
        with self._errors():
            self._cuda.memcpy_dtoh_async(buffer.view()[:nbytes], address, self._streams[stream])

    def copy_across(self, target: int, source: int, nbytes: int, stream: int) -> None:
        with self._errors():
            self._cuda.memcpy_dtod_async(target, source, nbytes, self._streams[stream])

    def create_stream(self) -> int:
        with self._errors():
            stream = self._cuda.Stream(_NON_BLOCKING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def synchronise(self, stream: int) -> None:
        with self._errors():
            self._streams[stream].synchronize()

    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]

    def synchronise_all(self) -> None:
        with self._errors():
            self._cuda.Context.synchronize()

    def create_event(self) -> int:
        with self._errors():
            event = self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)
        _EVENTS[id(event)] = event
        return id(event)

    def record(self, event: int, stream: int) -> None:
        with self._errors():
            _EVENTS[event].record(None if stream == LEGACY_STREAM else self._streams[stream])

    def wait(self, stream: int, event: int) -> None:
        # A stream that pycuda did not create cannot wait: the caller waits in its place.
        with self._errors():
            if stream in self._streams:
                self._streams[stream].wait_for_event(_EVENTS[event])
            else:
                _EVENTS[event].synchronize()

    def await_event(self, event: int) -> None:
        with self._errors():
            _EVENTS[event].synchronize()

    def destroy_event(self, event: int) -> None:
        del _EVENTS[event]

    def capture(self, stream: int, work: Callable[[], bool]) -> int | None:
        """Return None: pycuda cannot capture graphs."""
        return None

    def launch(self, graph: int, stream: int) -> None:
        raise EngineError("pycuda has no CUDA graphs", cure="Install cuda-bindings", graph=graph, stream=stream)

    def destroy_graph(self, graph: int) -> None:
        """Do nothing: there are no graphs."""

    def close(self) -> None:
        """Do nothing: the primary context belongs to the process."""

    @contextmanager
    def _errors(self, memory: str = "", nbytes: int = 0) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            raise out_of_memory(memory or "GPU memory", nbytes) from error
        except self._cuda.Error as error:
            raise EngineError(
                f"CUDA failed: {error}", cure="Restart the program: the GPU's context is unusable after such an error"
            ) from error
