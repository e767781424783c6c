"""`CudaMemory` through ``pycuda``: the second provider, for boards that have it already.

The device's primary context is retained once in the process and made current for each block. It is never let go:
pycuda leaves a context that is detached on the thread's stack, and forgets to release one that another thread retained.
``pycuda.autoinit`` is never imported: it makes a context of its own, which neither torch nor another thread shares.
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
"""The primary context of each GPU."""
_CONTEXTS_LOCK: Final = Lock()
_EVENTS: Final[dict[int, Any]] = {}
"""Events by number, of all objects: one engine waits for the event of another."""
_NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING, for which pycuda has no name."""


class _Pinned:
    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array: NDArray[np.uint8] | None = array
        self.nbytes = array.nbytes

    def view(self) -> NDArray[np.uint8]:
        if self.array is None:
            raise EngineError("this pinned memory was freed")
        return self.array


class PycudaMemory:
    """One GPU through pycuda.

    Args:
        index: Number of the GPU.

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
        """Push the primary context and pops it again."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def free_bytes(self) -> int:
        """Free memory of the GPU."""
        free, _total = self._cuda.mem_get_info()
        return int(free)

    def allocate(self, nbytes: int) -> int:
        """Return the address of new device memory."""
        with self._errors("GPU memory", nbytes):
            allocation = self._cuda.mem_alloc(max(1, nbytes))
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """Free device memory."""
        with self._errors():
            self._allocations.pop(address).free()

    def pin(self, nbytes: int) -> PinnedBuffer:
        """Return new pinned memory of the host."""
        with self._errors("pinned memory", nbytes):
            return _Pinned(self._cuda.pagelocked_empty(max(1, nbytes), np.uint8))

    def unpin(self, buffer: PinnedBuffer) -> None:
        """Let go of the array: pycuda frees its memory with it, in the context that is current now."""
        cast("_Pinned", buffer).array = None

    def copy_in(self, address: int, buffer: PinnedBuffer, nbytes: int, stream: int) -> None:
        """Copy bytes from the host to the device, later."""
        with self._errors():
            self._cuda.memcpy_htod_async(address, buffer.view()[:nbytes], self._streams[stream])

    def copy_out(self, buffer: PinnedBuffer, address: int, nbytes: int, stream: int) -> None:
        """Copy bytes from the device to the host, later."""
        with self._errors():
            self._cuda.memcpy_dtoh_async(buffer.view()[:nbytes], address, self._streams[stream])

    def copy_across(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy bytes on the device, later."""
        with self._errors():
            self._cuda.memcpy_dtod_async(target, source, nbytes, self._streams[stream])

    def create_stream(self) -> int:
        """Return a new stream."""
        with self._errors():
            stream = self._cuda.Stream(_NON_BLOCKING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def synchronise(self, stream: int) -> None:
        """Wait for a stream."""
        with self._errors():
            self._streams[stream].synchronize()

    def destroy_stream(self, stream: int) -> None:
        """End a stream."""
        del self._streams[stream]

    def synchronise_all(self) -> None:
        """Wait for the context: the primary one, which torch's work is in too."""
        with self._errors():
            self._cuda.Context.synchronize()

    def create_event(self) -> int:
        """Return a new event."""
        with self._errors():
            event = self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)
        _EVENTS[id(event)] = event
        return id(event)

    def record(self, event: int, stream: int) -> None:
        """Record an event."""
        with self._errors():
            _EVENTS[event].record(None if stream == LEGACY_STREAM else self._streams[stream])

    def wait(self, stream: int, event: int) -> None:
        """Let a stream wait for an event; the caller waits in place of a stream that pycuda did not make."""
        with self._errors():
            if stream in self._streams:
                self._streams[stream].wait_for_event(_EVENTS[event])
            else:
                _EVENTS[event].synchronize()

    def await_event(self, event: int) -> None:
        """Wait for an event."""
        with self._errors():
            _EVENTS[event].synchronize()

    def destroy_event(self, event: int) -> None:
        """End an event."""
        del _EVENTS[event]

    def capture(self, stream: int, work: Callable[[], bool]) -> int | None:
        """Never captures."""
        return None

    def launch(self, graph: int, stream: int) -> None:
        """There are no graphs.

        Raises:
            EngineError: Always.
        """
        raise EngineError("pycuda has no CUDA graphs", cure="Install cuda-bindings", graph=graph, stream=stream)

    def destroy_graph(self, graph: int) -> None:
        """There are no graphs."""

    def close(self) -> None:
        """Nothing to do: the primary context belongs to the process."""

    @contextmanager
    def _errors(self, memory: str = "", nbytes: int = 0) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            raise out_of_memory(memory or "GPU memory", nbytes) from error
        except self._cuda.Error as error:
            raise EngineError(
                f"CUDA failed: {error}",
                cure="Start the program again: after such an error a GPU's context cannot be used",
            ) from error
