"""Device memory for the arrays that an engine leaves on the GPU.

Each array reuses the place of one no longer needed, so that nothing is allocated in the steady state. An array keeps
its place until it is closed or garbage-collected and no longer read, even if its engine closes first.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from threading import RLock
from typing import Any

import numpy as np

from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.memory import CudaMemory, PinnedBuffer, as_bytes
from samedge.errors import EngineError
from samedge.types import Array


@dataclass(eq=False, slots=True)
class _Place:
    """A block of device memory.

    Attributes:
        address: Start address.
        nbytes: Size.
        written: Event that happens when its last write is complete.
        holds: Number of holders.
        lent: True if another library may still read it, on an unknown stream, after releasing it.
    """

    address: int
    nbytes: int
    written: int
    holds: int = 0
    lent: bool = False


class DevicePool:
    """Memory of one engine's device arrays. Thread-safe.

    Args:
        memory: The GPU; closed by the pool once it is closed itself and all arrays are gone.
    """

    def __init__(self, memory: CudaMemory) -> None:
        self.memory = memory
        self._idle: list[_Place] = []
        self._in_use = 0
        self._closed = False
        # Reentrant: garbage collection may return an array's memory while this thread holds the lock.
        self._lock = RLock()
        self._transfers = _Transfers(memory)

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> PooledArray:
        """Return an uninitialised array; call `PooledArray.mark_written` after filling it.

        Call inside the memory's context. Waits only if the reused memory may still be read on an unknown stream.
        """
        nbytes = max(1, prod(shape) * dtype.itemsize)
        with self._lock:
            fitting = [place for place in self._idle if nbytes <= place.nbytes <= 2 * nbytes]
            place = min(fitting, key=lambda place: place.nbytes) if fitting else self._allocate(nbytes)
            if fitting:
                self._idle.remove(place)
            place.holds = 1
            self._in_use += 1
        if place.lent:
            self.memory.synchronise_all()
            place.lent = False
        return PooledArray(self, place, shape, dtype)

    def _allocate(self, nbytes: int) -> _Place:
        try:
            address = self.memory.allocate(nbytes)
        except EngineError:
            if not self._idle:
                raise
            self._free_idle()  # kept for arrays of other sizes
            address = self.memory.allocate(nbytes)
        try:
            return _Place(address, nbytes, self.memory.create_event())
        except BaseException:
            self.memory.free(address)
            raise

    def upload(self, array: Array) -> PooledArray:
        """Copy a host array to the device, and wait until it is complete."""
        with self.memory.current():
            result = self.allocate(array.shape, array.dtype)
            self._transfers.send(result, array)
        return result

    def fetch(self, array: PooledArray) -> Array:
        """Copy an array to the host."""
        with self.memory.current():
            return self._transfers.fetch(array)

    def pick(self, array: PooledArray, rows: Sequence[int]) -> PooledArray:
        """Copy entries of an array's first axis on the device, and wait until the copy is complete."""
        with self.memory.current():
            result = self.allocate((len(rows), *array.shape[1:]), array.dtype)
            self._transfers.pick(result, array, rows)
        return result

    def keep(self, place: _Place) -> Callable[[], None]:
        """Add a holder to a place; return the function that removes it."""
        with self._lock:
            place.holds += 1
        return partial(self.release, place)

    def release(self, place: _Place) -> None:
        """Remove a holder from a place."""
        with self._lock:
            place.holds -= 1
            if place.holds:
                return
            self._idle.append(place)
        self.end_loan()

    def begin_loan(self) -> None:
        """Add a user of the GPU that holds no place in the pool."""
        with self._lock:
            self._in_use += 1

    def end_loan(self) -> None:
        """Remove such a user; the last one after `close` closes the GPU."""
        with self._lock:
            self._in_use -= 1
            last = self._closed and not self._in_use
        if last:
            self._end()

    def close(self) -> None:
        """Free the memory, now or once the last array is gone."""
        with self._lock:
            self._closed = True
            last = not self._in_use
        if last:
            self._end()

    def _end(self) -> None:
        with self.memory.current():
            self._transfers.close()
            self._free_idle()
        self.memory.close()

    def _free_idle(self) -> None:
        """Free unused places. Call inside the memory's context."""
        if any(place.lent for place in self._idle):
            self.memory.synchronise_all()
        while self._idle:
            place = self._idle.pop()
            self.memory.await_event(place.written)
            self.memory.destroy_event(place.written)
            self.memory.free(place.address)


class PooledArray(DeviceArray):
    """An array in a pool's memory."""

    def __init__(self, pool: DevicePool, place: _Place, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(shape, dtype, f"cuda:{pool.memory.gpu.index}")
        self._pool = pool
        self._place = place
        self._release = weakref.finalize(self, pool.release, place)

    @property
    def address(self) -> int:
        """Device address."""
        if not self._release.alive:
            raise EngineError("this device array is closed", cure="Run the engine again")
        return self._place.address

    def mark_written(self, stream: int) -> None:
        """Mark the array as complete after the stream's work so far. Call inside the memory's context."""
        self._pool.memory.record(self._place.written, stream)

    def wait(self) -> None:
        """Block the calling thread until the array is complete."""
        with self._pool.memory.current():
            self._pool.memory.await_event(self._place.written)

    def wait_on(self, memory: CudaMemory, stream: int) -> None:
        """Make a stream wait until the array is complete."""
        memory.wait(stream, self._place.written)

    def lend(self, stream: int | None) -> Callable[[], None]:
        """Lend the array to another library, whose stream waits until it is complete."""
        release = self.hold()
        self._place.lent = True
        if stream is not None:
            with self._pool.memory.current():
                self._pool.memory.wait(stream, self._place.written)
        return release

    def numpy(self) -> Array:
        """Copy the array to the host."""
        return self._pool.fetch(self)

    def pick(self, rows: Sequence[int]) -> PooledArray:
        """Copy entries of the first axis on the device; all of them in order are the array itself."""
        if list(rows) == list(range(self.shape[0])):
            return self
        return self._pool.pick(self, rows)

    def hold(self) -> Callable[[], None]:
        """Keep the memory alive until the returned function is called."""
        _ = self.address
        return self._pool.keep(self._place)

    def close(self) -> None:
        """Release the memory for reuse. Idempotent."""
        self._release()


class _Transfers:
    """A stream and a pinned buffer for copies outside the engine's runs, serialised across threads."""

    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory
        self._lock = RLock()
        self._stream: int | None = None
        self._pinned: PinnedBuffer | None = None

    def fetch(self, array: PooledArray) -> Array:
        result: Array = np.empty(array.shape, array.dtype)
        address, nbytes = array.address, result.nbytes
        if not nbytes:
            return result
        with self._lock:
            stream, pinned = self._ready(nbytes)
            array.wait_on(self._memory, stream)
            try:
                self._memory.copy_out(pinned, address, nbytes, stream)
            finally:
                self._memory.synchronise(stream)
            as_bytes(result)[:] = pinned.view()[:nbytes]
        return result

    def pick(self, target: PooledArray, array: PooledArray, rows: Sequence[int]) -> None:
        with self._lock:
            stream = self._open_stream()
            target.wait_on(self._memory, stream)
            array.wait_on(self._memory, stream)
            row_bytes = array.nbytes // max(1, array.shape[0])
            try:
                for at, first, count in _runs(rows) if row_bytes else ():
                    self._memory.copy_across(
                        target.address + at * row_bytes, array.address + first * row_bytes, count * row_bytes, stream
                    )
                target.mark_written(stream)
            finally:
                self._memory.synchronise(stream)

    def send(self, array: PooledArray, values: Array) -> None:
        with self._lock:
            stream, pinned = self._ready(values.nbytes)
            if values.nbytes:
                pinned.view()[: values.nbytes] = as_bytes(values)
                array.wait_on(
                    self._memory, stream
                )  # the place's previous array may be released but still being written
                try:
                    self._memory.copy_in(array.address, pinned, values.nbytes, stream)
                finally:
                    self._memory.synchronise(stream)
            array.mark_written(stream)

    def _open_stream(self) -> int:
        if self._stream is None:
            self._stream = self._memory.create_stream()
        return self._stream

    def _ready(self, nbytes: int) -> tuple[int, PinnedBuffer]:
        if self._pinned is None or self._pinned.nbytes < nbytes:
            if self._pinned is not None:
                pinned, self._pinned = self._pinned, None
                self._memory.unpin(pinned)
            self._pinned = self._memory.pin(nbytes)
        return self._open_stream(), self._pinned

    def close(self) -> None:
        if self._stream is not None:
            self._memory.synchronise(self._stream)
            self._memory.destroy_stream(self._stream)
        if self._pinned is not None:
            self._memory.unpin(self._pinned)
        self._stream = self._pinned = None


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield runs of consecutive rows: start in the result, start in the source, length."""
    start = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or rows[at] != rows[at - 1] + 1:
            yield start, int(rows[start]), at - start
            start = at
