"""Reusable buffers for the inputs and outputs of one engine: plain on the device, pinned on the host.

A buffer grows on demand and never shrinks, so calls with known sizes allocate nothing. Tensors that never reach the
host get no pinned memory: on a board it is taken from the GPU's.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.memory import CudaMemory, PinnedBuffer, as_bytes
from samedge.types import Array


@dataclass(slots=True)
class _Block:
    address: int
    nbytes: int


class TensorBuffers:
    """One buffer for each tensor of an engine. Call inside the memory's context.

    Args:
        memory: The GPU.
        limits: Name of a tensor to the most bytes it can need, which bounds growth. Tensors not named have no limit.

    Attributes:
        moves: Increases whenever a buffer's address changes.
    """

    def __init__(self, memory: CudaMemory, limits: dict[str, int]) -> None:
        self._memory = memory
        self._limits = limits
        self._blocks: dict[str, _Block] = {}
        self._pinned: dict[str, PinnedBuffer] = {}
        self.moves = 0

    def address(self, name: str) -> int:
        """Return the device address of a tensor's buffer."""
        return self._blocks[name].address

    def fits(self, name: str, nbytes: int) -> bool:
        """Return True if a tensor's buffer holds this many bytes."""
        block = self._blocks.get(name)
        return block is not None and block.nbytes >= nbytes

    def ensure(self, name: str, nbytes: int) -> None:
        """Make a tensor's buffer hold at least this many bytes.

        Its address may change: no work may be in progress on it, and no graph that uses it may be launched.
        """
        if self.fits(name, nbytes):
            return
        self.moves += 1
        block = self._blocks.pop(name, None)
        wanted = nbytes
        if block is not None:
            # Doubling limits the number of steps; the limit keeps the last step small.
            wanted = max(nbytes, min(2 * block.nbytes, self._limits.get(name, 2 * block.nbytes)))
            self._memory.free(block.address)
        size = max(1, wanted)  # a non-null address, even for empty tensors
        self._blocks[name] = _Block(self._memory.allocate(size), size)

    def send(self, name: str, array: Array, stream: int) -> None:
        """Copy an array to the device in stream order. No copy of this tensor may be in progress."""
        if array.nbytes:
            pinned = self._host_side(name, self._blocks[name].nbytes)
            pinned.view()[: array.nbytes] = as_bytes(array)
            self._memory.copy_in(self.address(name), pinned, array.nbytes, stream)

    def fetch(self, name: str, nbytes: int, stream: int) -> None:
        """Copy a tensor to the host in stream order. No copy of this tensor may be in progress."""
        if nbytes:
            self._memory.copy_out(self._host_side(name, self._blocks[name].nbytes), self.address(name), nbytes, stream)

    def fetch_from(self, name: str, address: int, nbytes: int, stream: int) -> None:
        """Copy a tensor at any device address to the host in stream order."""
        if nbytes:
            self._memory.copy_out(self._host_side(name, nbytes), address, nbytes, stream)

    def _host_side(self, name: str, size: int) -> PinnedBuffer:
        pinned = self._pinned.get(name)
        if pinned is None or pinned.nbytes < size:
            if pinned is not None:
                self._memory.unpin(self._pinned.pop(name))
            pinned = self._pinned[name] = self._memory.pin(size)
        return pinned

    def copy_from(self, name: str, address: int, nbytes: int, stream: int) -> None:
        """Copy a tensor from any device address, in stream order."""
        if nbytes:
            self._memory.copy_across(self.address(name), address, nbytes, stream)

    def copy_to(self, name: str, address: int, nbytes: int, stream: int) -> None:
        """Copy a tensor to any device address, in stream order."""
        if nbytes:
            self._memory.copy_across(address, self.address(name), nbytes, stream)

    def read(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """Return a new array with the fetched values. The stream must be synchronised first."""
        array: Array = np.empty(shape, dtype)
        if array.nbytes:
            as_bytes(array)[:] = self._pinned[name].view()[: array.nbytes]
        return array

    def release(self) -> None:
        """Free all buffers. No work may be in progress."""
        while self._blocks:
            self._memory.free(self._blocks.popitem()[1].address)
        while self._pinned:
            self._memory.unpin(self._pinned.popitem()[1])


class StagedInputs:
    """State of the input buffers. Call inside the memory's context, from one thread at a time.

    Args:
        memory: The GPU.
        buffers: Buffers of the inputs; their owner makes them large enough before each call.
    """

    def __init__(self, memory: CudaMemory, buffers: TensorBuffers) -> None:
        self._memory = memory
        self._buffers = buffers
        self._fed = memory.create_event()  # happens when the last call's inputs are in their buffers
        self._held: list[Callable[[], None]] = []  # of arrays being copied
        self._loaded: dict[str, weakref.ref[DeviceArray]] = {}
        self._moves = 0

    def begin(self) -> None:
        """Wait until the pinned memory can be overwritten: until the last call's copies are complete.

        They precede its work in the stream, which this does not wait for.
        """
        self._memory.await_event(self._fed)
        self.release()

    def feed(self, feeds: Mapping[str, Array | DeviceArray], stream: int) -> None:
        """Fill the buffers in stream order."""
        if self._moves != self._buffers.moves:
            self._loaded.clear()
            self._moves = self._buffers.moves
        for name, array in feeds.items():
            if not isinstance(array, DeviceArray):
                self._loaded.pop(name, None)
                self._buffers.send(name, array, stream)
                continue
            address = array.address  # even of one already there: it may be closed
            if name not in self._loaded or self._loaded[name]() is not array:
                self._held.append(array.hold())
                array.wait_on(self._memory, stream)
                self._buffers.copy_from(name, address, array.nbytes, stream)
                self._loaded[name] = weakref.ref(array)
        self._memory.record(self._fed, stream)

    def release(self) -> None:
        """Release the fed arrays, which have been copied."""
        while self._held:
            self._held.pop()()

    def invalidate(self) -> None:
        """Invalidate the buffers after an error. No copy may be in progress."""
        self._loaded.clear()
        self.release()

    def close(self) -> None:
        """Destroy the event. No copy may be in progress."""
        self.invalidate()
        self._memory.destroy_event(self._fed)
