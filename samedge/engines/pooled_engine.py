"""What engines have in common whose arrays lie in a pool of their own on a GPU."""

from __future__ import annotations

from samedge.engines.borrowed_array import borrow
from samedge.engines.device_array import DeviceArray
from samedge.engines.device_pool import DevicePool
from samedge.engines.dlpack import Exporter
from samedge.types import Array


class PooledEngine:
    """An engine with a pool, which it makes and closes."""

    _pool: DevicePool

    def to_device(self, array: Array) -> DeviceArray:
        """Returns a copy of an array of the host on the GPU.

        Raises:
            EngineError: There is not enough memory, or the copy failed.
        """
        return self._pool.upload(array)

    def borrow(self, exporter: Exporter) -> DeviceArray:
        """Returns an array over memory of another library on this GPU.

        Raises:
            TensorMismatchError: Its dtype has no numpy dtype, or its elements do not lie one after the other.
        """
        return borrow(exporter, self._pool)
