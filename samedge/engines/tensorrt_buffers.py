"""Memory for the inputs and outputs of one engine: pinned on the host and plain on the device, reused by every call.

A buffer grows when a call needs more and never shrinks, so that calls of the sizes that were seen allocate nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samedge.engines.cuda_memory import CudaMemory, PinnedBuffer, as_bytes
from samedge.types import Array


@dataclass(slots=True)
class _Pair:
    address: int
    pinned: PinnedBuffer
    nbytes: int


class TensorBuffers:
    """One buffer for each tensor of an engine. Called inside the memory's context.

    Args:
        memory: The GPU.
        limits: Name of a tensor to the most bytes that it can need; growth stops there. Tensors that are not named
            have no limit.
    """

    def __init__(self, memory: CudaMemory, limits: dict[str, int]) -> None:
        self._memory = memory
        self._limits = limits
        self._pairs: dict[str, _Pair] = {}

    def ensure(self, name: str, nbytes: int) -> int:
        """Returns the device address of a tensor's buffer, which holds at least so many bytes.

        It may be another address than before. No work may be under way on the buffer, nor a graph be kept that uses it.

        Raises:
            EngineError: There is not enough memory; the tensor has no buffer then.
        """
        pair = self._pairs.get(name)
        if pair is not None and pair.nbytes >= nbytes:
            return pair.address
        # Doubling keeps the number of steps small; the limit keeps the last step from being too large.
        wanted = nbytes if pair is None else max(nbytes, min(2 * pair.nbytes, self._limits.get(name, 2 * pair.nbytes)))
        if pair is not None:
            self._release(name)
        size = max(1, wanted)  # an address that is not null, for tensors without elements too
        address = self._memory.allocate(size)
        try:
            pinned = self._memory.pin(size)
        except BaseException:
            self._memory.free(address)
            raise
        self._pairs[name] = _Pair(address, pinned, size)
        return address

    def send(self, name: str, array: Array, stream: int) -> None:
        """Copies an array to the device, in the order of the stream. No copy of this tensor may be under way."""
        pair = self._pairs[name]
        if array.nbytes:
            pair.pinned.view()[: array.nbytes] = as_bytes(array)
            self._memory.copy_in(pair.address, pair.pinned, array.nbytes, stream)

    def fetch(self, name: str, nbytes: int, stream: int) -> None:
        """Starts the copy of a tensor to the host, in the order of the stream."""
        if nbytes:
            pair = self._pairs[name]
            self._memory.copy_out(pair.pinned, pair.address, nbytes, stream)

    def copy_from(self, name: str, address: int, nbytes: int, stream: int) -> None:
        """Copies a tensor from elsewhere on the device, in the order of the stream."""
        if nbytes:
            self._memory.copy_across(self._pairs[name].address, address, nbytes, stream)

    def copy_to(self, name: str, address: int, nbytes: int, stream: int) -> None:
        """Copies a tensor to elsewhere on the device, in the order of the stream."""
        if nbytes:
            self._memory.copy_across(address, self._pairs[name].address, nbytes, stream)

    def take(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """Returns a fresh array of what was fetched. The stream was synchronised since."""
        array: Array = np.empty(shape, dtype)
        if array.nbytes:
            as_bytes(array)[:] = self._pairs[name].pinned.view()[: array.nbytes]
        return array

    def release(self) -> None:
        """Frees everything. No work may be under way."""
        for name in list(self._pairs):
            self._release(name)

    def _release(self, name: str) -> None:
        pair = self._pairs.pop(name)
        self._memory.free(pair.address)
        self._memory.unpin(pair.pinned)
