"""Device memory, pinned memory, streams and graphs: the small part of CUDA that a runner needs.

Two providers fulfil `CudaMemory`: ``cuda-python`` (the default) and ``pycuda``. Both use the device's primary context,
so that they live with torch and with other threads. Addresses, streams, events and graphs are plain integers, and
those of one provider mean the same in each of its objects: an engine can wait for the event of another one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from samedge.errors import DeviceUnavailableError, EngineError

LEGACY_STREAM: Final = 1
"""CUDA's name for the default stream, which other libraries order their work by unless they were told otherwise."""
ALIGNMENT: Final = 256
"""Bytes: what TensorRT wants of every address, and what CUDA gives."""
OUT_OF_MEMORY_CURE: Final = (
    "Close other programs that use the GPU, use an engine with a smaller profile, or a smaller model"
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        index: Its number.
        name: What the driver calls it.
        compute_capability: Such as "8.6".
        multiprocessors: Number of streaming multiprocessors.
        memory_bytes: All of its memory.
        integrated: It shares the memory of the CPU, as on a Jetson.
    """

    index: int
    name: str
    compute_capability: str
    multiprocessors: int
    memory_bytes: int
    integrated: bool = False

    @property
    def target(self) -> str:
        """Its compute capability as builders name it: "sm86"."""
        return f"sm{self.compute_capability.replace('.', '')}"

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"


class PinnedBuffer(Protocol):
    """Memory of the host that the GPU copies from and to without the CPU."""

    @property
    def nbytes(self) -> int:
        """Its size."""
        ...

    def view(self) -> NDArray[np.uint8]:
        """Its bytes. No copy from or to it may be under way."""
        ...


class CudaMemory(Protocol):
    """One GPU. All methods but `current` and `close` are called inside ``with memory.current():``."""

    @property
    def provider(self) -> str:
        """Name of the provider."""
        ...

    @property
    def gpu(self) -> Gpu:
        """The GPU."""
        ...

    @property
    def captures(self) -> bool:
        """Whether work can be captured as a graph."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU's primary context the thread's own for a block, and restores what was before."""
        ...

    def free_bytes(self) -> int:
        """Free memory of the GPU."""
        ...

    def allocate(self, nbytes: int) -> int:
        """Return the address of new device memory.

        Raises:
            EngineError: There is not enough.
        """
        ...

    def free(self, address: int) -> None:
        """Free device memory."""
        ...

    def pin(self, nbytes: int) -> PinnedBuffer:
        """Return new pinned memory of the host.

        Raises:
            EngineError: There is not enough.
        """
        ...

    def unpin(self, buffer: PinnedBuffer) -> None:
        """Free pinned memory."""
        ...

    def copy_in(self, address: int, buffer: PinnedBuffer, nbytes: int, stream: int) -> None:
        """Copy bytes from the host to the device, later, in the order of the stream."""
        ...

    def copy_out(self, buffer: PinnedBuffer, address: int, nbytes: int, stream: int) -> None:
        """Copy bytes from the device to the host, later, in the order of the stream."""
        ...

    def copy_across(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy bytes on the device, later, in the order of the stream."""
        ...

    def create_stream(self) -> int:
        """Return a new stream that does not wait for the default one."""
        ...

    def synchronise(self, stream: int) -> None:
        """Wait until all that the stream was given is done."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """End a stream."""
        ...

    def synchronise_all(self) -> None:
        """Wait until all is done that anybody in this process gave to the GPU."""
        ...

    def create_event(self) -> int:
        """Return a new event."""
        ...

    def record(self, event: int, stream: int) -> None:
        """The event happens when all that the stream was given so far is done."""
        ...

    def wait(self, stream: int, event: int) -> None:
        """What the stream is given from now on begins after the event. The stream may be another library's."""
        ...

    def await_event(self, event: int) -> None:
        """The calling thread waits for the event; at once if it was never recorded."""
        ...

    def destroy_event(self, event: int) -> None:
        """End an event."""
        ...

    def capture(self, stream: int, work: Callable[[], bool]) -> int | None:
        """Record what `work` gives to the stream as a graph, without running it.

        Returns:
            The graph, or None if the work cannot be captured or said False.
        """
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Give a graph to a stream."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """End a graph."""
        ...

    def close(self) -> None:
        """Let go of the context. Called once, when nothing is left in it."""
        ...


def device_index(device: str | None) -> int:
    """Return the number in "cuda:1"; 0 for "cuda" and None.

    Raises:
        DeviceUnavailableError: It is another kind of device.
    """
    name, colon, number = (device or "cuda").lower().partition(":")
    if name not in ("cuda", "gpu") or (colon and not number.isdecimal()):
        raise DeviceUnavailableError(
            f"TensorRT knows no device {device!r}", cure="Ask for 'cuda', or 'cuda:1' for the second GPU", device=device
        )
    return int(number) if colon else 0


def no_driver(cause: str) -> DeviceUnavailableError:
    """Return the error for a machine without a working NVIDIA driver."""
    return DeviceUnavailableError(
        f"there is no working NVIDIA driver ({cause})",
        cure="Install NVIDIA's driver (nvidia-smi shows whether it works; in a container, start it with --gpus all)",
        cause=cause,
    )


def no_such_gpu(index: int, count: int) -> DeviceUnavailableError:
    """Return the error for a number that no GPU has."""
    return DeviceUnavailableError(
        f"there is no GPU {index}: {count or 'none'} can be seen",
        cure="Ask for 'cuda:0', or check CUDA_VISIBLE_DEVICES" if count else "Check CUDA_VISIBLE_DEVICES",
        count=count,
    )


def out_of_memory(what: str, nbytes: int) -> EngineError:
    """Return the error for memory that could not be had."""
    return EngineError(f"there is not enough {what} for {nbytes / 1e6:.1f} MB", cure=OUT_OF_MEMORY_CURE, needed=nbytes)


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of a C-contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8)
