"""Memory for the inputs and outputs of one engine: plain on the device and pinned on the host, reused by every call.

A buffer grows when a call needs more and never shrinks, so that calls of the sizes that were seen allocate nothing.
Tensors that never cross to the host get no pinned memory: on a board it is taken from the GPU's.
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
    """One buffer for each tensor of an engine. Called inside the memory's context.

    Args:
        memory: The GPU.
        limits: Name of a tensor to the most bytes that it can need; growth stops there. Tensors that are not named
            have no limit.

    Attributes:
        moves: Grows whenever a tensor's buffer gets another address.
    """

    def __init__(self, memory: CudaMemory, limits: dict[str, int]) -> None:
        self._memory = memory
        self._limits = limits
        self._blocks: dict[str, _Block] = {}
        self._pinned: dict[str, PinnedBuffer] = {}
        self.moves = 0

    def address(self, name: str) -> int:
        """The device address of a tensor's buffer."""
        return self._blocks[name].address

    def fits(self, name: str, nbytes: int) -> bool:
        """Whether a tensor's buffer holds so many bytes."""
        block = self._blocks.get(name)
        return block is not None and block.nbytes >= nbytes

    def ensure(self, name: str, nbytes: int) -> None:
        """Make a tensor's buffer hold at least so many bytes.

        It may get another address. No work may be under way on the buffer, nor a graph be launched that uses it.

        Raises:
            EngineError: There is not enough memory; the tensor has no buffer then.
        """
        if self.fits(name, nbytes):
            return
        self.moves += 1
        block = self._blocks.pop(name, None)
        wanted = nbytes
        if block is not None:
            # Doubling keeps the number of steps small; the limit keeps the last step from being too large.
            wanted = max(nbytes, min(2 * block.nbytes, self._limits.get(name, 2 * block.nbytes)))
            self._memory.free(block.address)
        size = max(1, wanted)  # an address that is not null, for tensors without elements too
        self._blocks[name] = _Block(self._memory.allocate(size), size)

    def send(self, name: str, array: Array, stream: int) -> None:
        """Copy an array to the device, in the order of the stream. No copy of this tensor may be under way."""
        if array.nbytes:
            pinned = self._host_side(name, self._blocks[name].nbytes)
            pinned.view()[: array.nbytes] = as_bytes(array)
            self._memory.copy_in(self.address(name), pinned, array.nbytes, stream)

    def fetch(self, name: str, nbytes: int, stream: int) -> None:
        """Start the copy of a tensor to the host, in the order of the stream. None of it may be under way."""
        if nbytes:
            self._memory.copy_out(self._host_side(name, self._blocks[name].nbytes), self.address(name), nbytes, stream)

    def fetch_from(self, name: str, address: int, nbytes: int, stream: int) -> None:
        """Start the copy to the host of a tensor that lies elsewhere on the device, and needs no buffer there."""
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
        """Copy a tensor from elsewhere on the device, in the order of the stream."""
        if nbytes:
            self._memory.copy_across(self.address(name), address, nbytes, stream)

    def copy_to(self, name: str, address: int, nbytes: int, stream: int) -> None:
        """Copy a tensor to elsewhere on the device, in the order of the stream."""
        if nbytes:
            self._memory.copy_across(address, self.address(name), nbytes, stream)

    def take(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """Return a fresh array of what was fetched. The stream was synchronised since."""
        array: Array = np.empty(shape, dtype)
        if array.nbytes:
            as_bytes(array)[:] = self._pinned[name].view()[: array.nbytes]
        return array

    def release(self) -> None:
        """Free everything. No work may be under way."""
        while self._blocks:
            self._memory.free(self._blocks.popitem()[1].address)
        while self._pinned:
            self._memory.unpin(self._pinned.popitem()[1])


class StagedInputs:
    """What the buffers of inputs hold. Called inside the memory's context, by one thread at a time.

    Args:
        memory: The GPU.
        buffers: Memory of the inputs; whoever owns it makes it large enough before each call.
    """

    def __init__(self, memory: CudaMemory, buffers: TensorBuffers) -> None:
        self._memory = memory
        self._buffers = buffers
        self._fed = memory.create_event()  # all inputs of the last call are in their buffers
        self._held: list[Callable[[], None]] = []  # of arrays that are being copied
        self._loaded: dict[str, weakref.ref[DeviceArray]] = {}
        self._moves = 0

    def begin(self) -> None:
        """Wait until the pinned memory may be written over: the last call's copies have come to their end.

        They stand before its work in the stream: this does not wait for that.
        """
        self._memory.await_event(self._fed)
        self.let_go()

    def feed(self, feeds: Mapping[str, Array | DeviceArray], stream: int) -> None:
        """Fill the buffers, in the order of the stream.

        Raises:
            EngineError: An array was closed, there is not enough memory, or CUDA failed.
        """
        if self._moves != self._buffers.moves:
            self._loaded.clear()
            self._moves = self._buffers.moves
        for name, array in feeds.items():
            if not isinstance(array, DeviceArray):
                self._loaded.pop(name, None)
                self._buffers.send(name, array, stream)
                continue
            address = array.address  # also of one that is there: it may be closed
            if name not in self._loaded or self._loaded[name]() is not array:
                self._held.append(array.hold())
                array.wait_on(self._memory, stream)
                self._buffers.copy_from(name, address, array.nbytes, stream)
                self._loaded[name] = weakref.ref(array)
        self._memory.record(self._fed, stream)

    def let_go(self) -> None:
        """Give up the arrays that were fed: they were copied."""
        while self._held:
            self._held.pop()()

    def forget(self) -> None:
        """Give up everything after an error: nobody knows what the buffers hold. No copy may be under way."""
        self._loaded.clear()
        self.let_go()

    def close(self) -> None:
        """End the event. No copy may be under way."""
        self.forget()
        self._memory.destroy_event(self._fed)
