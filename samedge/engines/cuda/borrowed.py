"""Arrays of torch, CuPy and others that an engine reads where they lie."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np

from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.dlpack import Exporter, Taken, take
from samedge.engines.cuda.memory import LEGACY_STREAM, CudaMemory, as_bytes
from samedge.engines.cuda.pool import DevicePool
from samedge.errors import EngineError
from samedge.types import Array


def borrow(exporter: Exporter, pool: DevicePool) -> BorrowedArray:
    """Return an array over memory of another library; it is given back when the array is forgotten.

    Args:
        exporter: The array, on the pool's GPU.
        pool: Whose memory stays open as long as the array.

    Raises:
        TensorMismatchError: Its dtype has no numpy dtype, or its elements do not lie one after the other.
    """
    # The library lets the default stream wait for what it still has to do; an event hands that on to our streams.
    taken, memory = take(exporter, stream=LEGACY_STREAM), pool.memory
    with memory.current():
        try:
            ready = memory.create_event()
        except BaseException:
            taken.release()
            raise
        memory.record(ready, LEGACY_STREAM)
    pool.lent_to()
    return BorrowedArray(_Loan(taken, pool, ready))


class BorrowedArray(DeviceArray):
    """An array in another library's memory, which is kept until nobody here reads it."""

    def __init__(self, loan: _Loan) -> None:
        super().__init__(loan.taken.shape, loan.taken.dtype, f"cuda:{loan.memory.gpu.index}")
        self._memory = loan.memory
        self._loan: _Loan | None = loan

    @property
    def address(self) -> int:
        """Where it lies on the device.

        Raises:
            EngineError: It was closed.
        """
        return self._open().taken.address

    def _open(self) -> _Loan:
        if self._loan is None:
            raise EngineError("this device array was closed", cure="Hand it over again")
        return self._loan

    def wait(self) -> None:
        """Wait until it is complete."""
        with self._memory.current():
            self._memory.await_event(self._open().ready)

    def wait_on(self, memory: CudaMemory, stream: int) -> None:
        """Let a stream wait until it is complete."""
        memory.wait(stream, self._open().ready)

    def numpy(self) -> Array:
        """Return a copy on the host.

        Raises:
            EngineError: It was closed, or CUDA failed.
        """
        result: Array = np.empty(self.shape, self.dtype)
        address, memory = self.address, self._memory
        if not result.nbytes:
            return result
        with memory.current():
            stream, pinned = memory.create_stream(), memory.pin(self.nbytes)
            try:
                self.wait_on(memory, stream)
                memory.copy_out(pinned, address, self.nbytes, stream)
                memory.synchronise(stream)
                as_bytes(result)[:] = pinned.view()[: self.nbytes]
            finally:
                memory.unpin(pinned)
                memory.destroy_stream(stream)
        return result

    def hold(self) -> Callable[[], None]:
        """Keep the memory until the function that this returns is called.

        Raises:
            EngineError: It was closed.
        """
        held = [self._open()]
        return held.clear

    def close(self) -> None:
        """Give the memory back, unless it is still being read. May be called twice."""
        self._loan = None


class _Loan:
    """The memory, shared by the array and by who reads it: the last one to forget it gives it back."""

    def __init__(self, taken: Taken, pool: DevicePool, ready: int) -> None:
        self.taken = taken
        self.memory = pool.memory
        self.ready = ready
        weakref.finalize(self, _give_back, taken.release, pool, ready)


def _give_back(release: Callable[[], None], pool: DevicePool, ready: int) -> None:
    with pool.memory.current():
        pool.memory.destroy_event(ready)
    release()
    pool.returned()


class PooledEngine:
    """An engine with a pool, which it makes and closes."""

    _pool: DevicePool

    def to_device(self, array: Array) -> DeviceArray:
        """Return a copy of an array of the host on the GPU.

        Raises:
            EngineError: There is not enough memory, or the copy failed.
        """
        return self._pool.upload(array)

    def borrow(self, exporter: Exporter) -> DeviceArray:
        """Return an array over memory of another library on this GPU.

        Raises:
            TensorMismatchError: Its dtype has no numpy dtype, or its elements do not lie one after the other.
        """
        return borrow(exporter, self._pool)
