"""Arrays that stay in a GPU's memory: what one engine computes and the next one reads, without the way over the host.

Their memory comes from a pool, so that the next image takes the place of the last one and nothing is allocated. An
array keeps its place until it is closed or forgotten, even if its engine is closed before it.
"""

from __future__ import annotations

import weakref
from math import prod
from threading import RLock
from typing import Any

import numpy as np

from samedge.engines.cuda_memory import CudaMemory, as_bytes
from samedge.engines.dlpack import CUDA, capsule
from samedge.errors import EngineError
from samedge.types import Array, TensorSpec


class DevicePool:
    """Device memory of one engine for arrays that outlive a call. May be used from any thread.

    Args:
        memory: The GPU; closed by the pool when it is closed itself and all arrays are gone.
    """

    def __init__(self, memory: CudaMemory) -> None:
        self.memory = memory
        self._idle: list[tuple[int, int]] = []  # size and address
        self._in_use: set[int] = set()
        self._closed = False
        # An array may be forgotten, and its memory come back, in the middle of a block that holds the lock.
        self._lock = RLock()

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """Returns an array full of nonsense. Called inside the memory's context.

        Raises:
            EngineError: There is not enough memory.
        """
        nbytes = max(1, prod(shape) * dtype.itemsize)
        with self._lock:
            fitting = min((place for place in self._idle if nbytes <= place[0] <= 2 * nbytes), default=None)
            if fitting is None:
                fitting = (nbytes, self.memory.allocate(nbytes))
            else:
                self._idle.remove(fitting)
            self._in_use.add(fitting[1])
        return DeviceArray(self, fitting, shape, dtype)

    def give_back(self, place: tuple[int, int]) -> None:
        """Takes the memory of an array that is gone."""
        with self._lock:
            self._in_use.discard(place[1])
            self._idle.append(place)
            last = self._closed and not self._in_use
        if last:
            self._end()

    def close(self) -> None:
        """Frees the memory now, or as soon as the last array is gone."""
        with self._lock:
            self._closed = True
            last = not self._in_use
        if last:
            self._end()

    def _end(self) -> None:
        with self.memory.current():
            while self._idle:
                self.memory.free(self._idle.pop()[1])
        self.memory.close()


class DeviceArray:
    """A C-contiguous array in a GPU's memory. It is complete: whoever reads it needs to wait for nothing.

    It is handed to torch, CuPy or JAX with their ``from_dlpack``, without a copy.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        nbytes: Its size.
    """

    def __init__(self, pool: DevicePool, place: tuple[int, int], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self.nbytes = prod(shape) * dtype.itemsize
        self._pool = pool
        self._place = place
        self._release = weakref.finalize(self, pool.give_back, place)

    @property
    def address(self) -> int:
        """Where it lies on the device.

        Raises:
            EngineError: It was closed.
        """
        if not self._release.alive:
            raise EngineError("this device array was closed", cure="Run the engine again")
        return self._place[1]

    @property
    def device(self) -> int:
        """Number of its GPU."""
        return self._pool.memory.gpu.index

    @property
    def spec(self) -> TensorSpec:
        """Shape and dtype."""
        return TensorSpec(self.shape, self.dtype)

    def numpy(self) -> Array:
        """Returns a copy on the host.

        Raises:
            EngineError: It was closed, or CUDA failed.
        """
        result: Array = np.empty(self.shape, self.dtype)
        address, memory = self.address, self._pool.memory
        if not result.nbytes:
            return result
        with memory.current():
            stream, pinned = memory.create_stream(), memory.pin(self.nbytes)
            try:
                memory.copy_out(pinned, address, self.nbytes, stream)
                memory.synchronise(stream)
                as_bytes(result)[:] = pinned.view()[: self.nbytes]
            finally:
                memory.unpin(pinned)
                memory.destroy_stream(stream)
        return result

    def close(self) -> None:
        """Gives its memory to the next array. May be called twice."""
        self._release()

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        return capsule(self.address, self.shape, self.dtype, device=self.__dlpack_device__(), owner=self)

    def __repr__(self) -> str:
        return f"DeviceArray({self.spec} on cuda:{self.device})"
