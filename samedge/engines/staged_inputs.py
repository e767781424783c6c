"""How the inputs of one engine come into its buffers on the GPU: from pinned memory, or from elsewhere on the GPU.

An array on the device that is there already, as in the last call, is not copied again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping

from samedge.engines.cuda_memory import CudaMemory
from samedge.engines.device_array import DeviceArray
from samedge.engines.tensor_buffers import TensorBuffers
from samedge.types import Array


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
        """Waits until the pinned memory may be written over: the last call's copies have come to their end.

        They stand before its work in the stream: this does not wait for that.
        """
        self._memory.await_event(self._fed)
        self.let_go()

    def feed(self, feeds: Mapping[str, Array | DeviceArray], stream: int) -> None:
        """Fills the buffers, in the order of the stream.

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
        """Gives up the arrays that were fed: they were copied."""
        while self._held:
            self._held.pop()()

    def forget(self) -> None:
        """Gives up everything after an error: nobody knows what the buffers hold. No copy may be under way."""
        self._loaded.clear()
        self.let_go()

    def close(self) -> None:
        """Ends the event. No copy may be under way."""
        self.forget()
        self._memory.destroy_event(self._fed)
