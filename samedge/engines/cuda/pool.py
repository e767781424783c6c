"""Device memory for the arrays that an engine leaves on the GPU.

The next image takes the place of one that is not needed any more, so that nothing is allocated in the steady state. An
array keeps its place until it is closed or forgotten and nobody reads it any more, even if its engine is closed before.
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
        address: Where it begins.
        nbytes: Its size.
        written: An event: happens when what was last written there is complete.
        holds: How many keep it.
        lent: Another library may still read it after it let go, on a stream that is not known here.
    """

    address: int
    nbytes: int
    written: int
    holds: int = 0
    lent: bool = False


class DevicePool:
    """The memory of one engine's arrays. May be used from any thread.

    Args:
        memory: The GPU; closed by the pool when it is closed itself and all arrays are gone.
    """

    def __init__(self, memory: CudaMemory) -> None:
        self.memory = memory
        self._idle: list[_Place] = []
        self._in_use = 0
        self._closed = False
        # An array may be forgotten, and its memory come back, in the middle of a block that holds the lock.
        self._lock = RLock()
        self._transfers = _Transfers(memory)

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> PooledArray:
        """Return an array full of nonsense; whoever fills it says so with `PooledArray.wrote`.

        Called inside the memory's context. What may be written over was read to its end, unless it is read on streams
        of which nothing is known: then this waits.

        Raises:
            EngineError: There is not enough memory.
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
            self._free_idle()  # what is kept for arrays of other sizes
            address = self.memory.allocate(nbytes)
        try:
            return _Place(address, nbytes, self.memory.create_event())
        except BaseException:
            self.memory.free(address)
            raise

    def upload(self, array: Array) -> PooledArray:
        """Return a copy of an array of the host; it is complete.

        Raises:
            EngineError: There is not enough memory, or the copy failed.
        """
        with self.memory.current():
            result = self.take(array.shape, array.dtype)
            self._transfers.send(result, array)
        return result

    def fetch(self, array: PooledArray) -> Array:
        """Return a copy on the host.

        Raises:
            EngineError: The array was closed, or the copy failed.
        """
        with self.memory.current():
            return self._transfers.fetch(array)

    def pick(self, array: PooledArray, rows: Sequence[int]) -> PooledArray:
        """Return a copy of some entries of an array's first axis; it is complete.

        Raises:
            EngineError: The array was closed, there is not enough memory, or the copy failed.
        """
        with self.memory.current():
            result = self.take((len(rows), *array.shape[1:]), array.dtype)
            self._transfers.pick(result, array, rows)
        return result

    def keep(self, place: _Place) -> Callable[[], None]:
        """Count one more who needs a place; returns what he calls when he is done."""
        with self._lock:
            place.holds += 1
        return partial(self.let_go, place)

    def let_go(self, place: _Place) -> None:
        """Count one less."""
        with self._lock:
            place.holds -= 1
            if place.holds:
                return
            self._idle.append(place)
        self.returned()

    def lent_to(self) -> None:
        """Count one more who needs the GPU, and no place in the pool."""
        with self._lock:
            self._in_use += 1

    def returned(self) -> None:
        """Count one less; the last one after `close` closes the GPU."""
        with self._lock:
            self._in_use -= 1
            last = self._closed and not self._in_use
        if last:
            self._end()

    def close(self) -> None:
        """Free the memory now, or as soon as the last array is gone."""
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
        """Free the places that nobody needs. Called inside the memory's context."""
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
        self._release = weakref.finalize(self, pool.let_go, place)

    @property
    def address(self) -> int:
        """Where it lies on the device.

        Raises:
            EngineError: It was closed.
        """
        if not self._release.alive:
            raise EngineError("this device array was closed", cure="Run the engine again")
        return self._place.address

    def wrote(self, stream: int) -> None:
        """The array is complete when all is done that the stream was given so far. Inside the memory's context."""
        self._pool.memory.record(self._place.written, stream)

    def wait(self) -> None:
        """Wait until it is complete."""
        with self._pool.memory.current():
            self._pool.memory.await_event(self._place.written)

    def wait_on(self, memory: CudaMemory, stream: int) -> None:
        """Let a stream wait until it is complete."""
        memory.wait(stream, self._place.written)

    def lend(self, stream: int | None) -> Callable[[], None]:
        """Lend it to another library, whose stream waits until it is complete."""
        release = self.hold()
        self._place.lent = True
        if stream is not None:
            with self._pool.memory.current():
                self._pool.memory.wait(stream, self._place.written)
        return release

    def numpy(self) -> Array:
        """Return a copy on the host.

        Raises:
            EngineError: It was closed, or CUDA failed.
        """
        return self._pool.fetch(self)

    def pick(self, rows: Sequence[int]) -> PooledArray:
        """Return a copy of some entries of the first axis on the device; all of them in their order are the array.

        Raises:
            EngineError: It was closed, there is not enough memory, or CUDA failed.
        """
        if list(rows) == list(range(self.shape[0])):
            return self
        return self._pool.pick(self, rows)

    def hold(self) -> Callable[[], None]:
        """Keep the memory until the function that this returns is called.

        Raises:
            EngineError: It was closed.
        """
        _ = self.address
        return self._pool.keep(self._place)

    def close(self) -> None:
        """Give its memory to the next array. May be called twice."""
        self._release()


class _Transfers:
    """One stream and one pinned buffer for copies beside the engine's own; threads take turns."""

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
                target.wrote(stream)
            finally:
                self._memory.synchronise(stream)

    def send(self, array: PooledArray, values: Array) -> None:
        with self._lock:
            stream, pinned = self._ready(values.nbytes)
            if values.nbytes:
                pinned.view()[: values.nbytes] = as_bytes(values)
                array.wait_on(self._memory, stream)  # the place's last array may be given up and still be written
                try:
                    self._memory.copy_in(array.address, pinned, values.nbytes, stream)
                finally:
                    self._memory.synchronise(stream)
            array.wrote(stream)

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
    """Yield where rows that follow each other begin in the result and in the source, and how many they are."""
    start = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or rows[at] != rows[at - 1] + 1:
            yield start, int(rows[start]), at - start
            start = at
