"""Arrays of torch, CuPy and other libraries, read in place by an engine."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np

from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.dlpack import Exporter, ImportedArray, import_array
from samedge.engines.cuda.memory import LEGACY_STREAM, CudaMemory, as_bytes
from samedge.engines.cuda.pool import DevicePool
from samedge.errors import EngineError
from samedge.types import Array


def borrow(exporter: Exporter, pool: DevicePool) -> BorrowedArray:
    """Wrap another library's memory as an array; it is released when the array is garbage-collected.

    Args:
        exporter: The array, on the pool's GPU.
        pool: Pool whose memory stays open as long as the array.

    Raises:
        TensorMismatchError: Its dtype has no numpy equivalent, or it is not contiguous.
    """
    # The library makes the default stream wait for its pending work; an event passes that on to our streams.
    imported, memory = import_array(exporter, stream=LEGACY_STREAM), pool.memory
    with memory.current():
        try:
            ready = memory.create_event()
        except BaseException:
            imported.release()
            raise
        memory.record(ready, LEGACY_STREAM)
    pool.begin_loan()
    return BorrowedArray(_Loan(imported, pool, ready))


class BorrowedArray(DeviceArray):
    """An array in another library's memory, kept alive while it is being read."""

    def __init__(self, loan: _Loan) -> None:
        super().__init__(loan.imported.shape, loan.imported.dtype, f"cuda:{loan.memory.gpu.index}")
        self._memory = loan.memory
        self._loan: _Loan | None = loan

    @property
    def address(self) -> int:
        """Device address."""
        return self._open().imported.address

    def _open(self) -> _Loan:
        if self._loan is None:
            raise EngineError("this device array is closed", cure="Pass it to the engine again")
        return self._loan

    def wait(self) -> None:
        """Block the calling thread until the array is complete."""
        with self._memory.current():
            self._memory.await_event(self._open().ready)

    def wait_on(self, memory: CudaMemory, stream: int) -> None:
        """Make a stream wait until the array is complete."""
        memory.wait(stream, self._open().ready)

    def numpy(self) -> Array:
        """Copy the array to the host."""
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
        """Keep the memory alive until the returned function is called."""
        held = [self._open()]
        return held.clear

    def close(self) -> None:
        """Release the memory once it is no longer read. Idempotent."""
        self._loan = None


class _Loan:
    """Borrowed memory, shared by the array and its readers; the last reference releases it."""

    def __init__(self, imported: ImportedArray, pool: DevicePool, ready: int) -> None:
        self.imported = imported
        self.memory = pool.memory
        self.ready = ready
        weakref.finalize(self, _release_loan, imported.release, pool, ready)


def _release_loan(release: Callable[[], None], pool: DevicePool, ready: int) -> None:
    with pool.memory.current():
        pool.memory.destroy_event(ready)
    release()
    pool.end_loan()


class PooledEngine:
    """An engine that owns a device memory pool."""

    _pool: DevicePool

    def to_device(self, array: Array) -> DeviceArray:
        """Copy a host array to the GPU."""
        return self._pool.upload(array)

    def borrow(self, exporter: Exporter) -> DeviceArray:
        """Wrap another library's memory on this GPU as an array."""
        return borrow(exporter, self._pool)
