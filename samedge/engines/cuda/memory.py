"""Device memory, pinned memory, streams and graphs: the small part of CUDA that engines need.

Two providers implement `CudaMemory`: ``cuda-python`` (the default) and ``pycuda``. Both use the device's primary
context, and so coexist with torch and with other threads. Addresses, streams, events and graphs are plain integers,
valid in every object of the same provider: an engine can wait for another's event.
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
"""CUDA's handle of the default stream, which other libraries use unless told otherwise."""
ALIGNMENT: Final = 256
"""Bytes: required of every address by TensorRT, and provided by CUDA."""
OUT_OF_MEMORY_CURE: Final = (
    "Close other programs that use the GPU, use an engine with a smaller profile, or a smaller model"
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """Properties of a GPU.

    Attributes:
        index: Device index.
        name: Name given by the driver.
        compute_capability: Such as "8.6".
        multiprocessors: Number of streaming multiprocessors.
        memory_bytes: Total memory.
        integrated: True if it shares the CPU's memory, as on a Jetson.
    """

    index: int
    name: str
    compute_capability: str
    multiprocessors: int
    memory_bytes: int
    integrated: bool = False

    @property
    def target(self) -> str:
        """Compute capability in the builders' notation: "sm86"."""
        return f"sm{self.compute_capability.replace('.', '')}"

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"


class PinnedBuffer(Protocol):
    """Page-locked host memory, which the GPU copies without the CPU."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""

    def view(self) -> NDArray[np.uint8]:
        """Return its bytes. No copy from or to it may be in progress."""


class CudaMemory(Protocol):
    """One GPU. Call all methods except `current` and `close` inside ``with memory.current():``."""

    @property
    def provider(self) -> str:
        """Name of the provider."""

    @property
    def gpu(self) -> Gpu:
        """The GPU."""

    @property
    def captures(self) -> bool:
        """True if work can be captured as a graph."""

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU's primary context current for a block, then restore the previous one."""

    def free_bytes(self) -> int:
        """Return the free memory of the GPU, bytes."""

    def allocate(self, nbytes: int) -> int:
        """Allocate device memory and return its address."""

    def free(self, address: int) -> None:
        """Free device memory."""

    def pin(self, nbytes: int) -> PinnedBuffer:
        """Allocate pinned host memory."""

    def unpin(self, buffer: PinnedBuffer) -> None:
        """Free pinned memory."""

    def copy_in(self, address: int, buffer: PinnedBuffer, nbytes: int, stream: int) -> None:
        """Copy bytes from the host to the device, asynchronously in stream order."""

    def copy_out(self, buffer: PinnedBuffer, address: int, nbytes: int, stream: int) -> None:
        """Copy bytes from the device to the host, asynchronously in stream order."""

    def copy_across(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy bytes on the device, asynchronously in stream order."""

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default one."""

    def synchronise(self, stream: int) -> None:
        """Wait until all work of the stream is done."""

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""

    def synchronise_all(self) -> None:
        """Wait until all of this process's work on the GPU is done."""

    def create_event(self) -> int:
        """Create an event."""

    def record(self, event: int, stream: int) -> None:
        """Record an event that happens when the stream's work so far is done."""

    def wait(self, stream: int, event: int) -> None:
        """Make later work of a stream, which may be another library's, wait for an event."""

    def await_event(self, event: int) -> None:
        """Block the calling thread until an event; return immediately if it was never recorded."""

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""

    def capture(self, stream: int, work: Callable[[], bool]) -> int | None:
        """Record the work that `work` queues on the stream as a graph, without running it.

        Returns:
            The graph, or None if the work cannot be captured or returned False.
        """

    def launch(self, graph: int, stream: int) -> None:
        """Launch a graph on a stream."""

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph."""

    def close(self) -> None:
        """Release the context. Called once, when nothing is left in it."""


def device_index(device: str | None) -> int:
    """Return the index in "cuda:1"; 0 for "cuda" and None."""
    name, colon, number = (device or "cuda").lower().partition(":")
    if name not in ("cuda", "gpu") or (colon and not number.isdecimal()):
        raise DeviceUnavailableError(
            f"TensorRT has no device {device!r}", cure="Request 'cuda', or 'cuda:1' for the second GPU", device=device
        )
    return int(number) if colon else 0


def old_driver(driver: int, runtime: int) -> DeviceUnavailableError:
    """Return the error for CUDA bindings that are newer than the driver; versions as CUDA tells them, such as 12060.

    Bindings 12 run on every driver of CUDA 12, and bindings 13 on those of CUDA 13 (r580) alone.
    """
    has, needs = (f"{version // 1000}.{version % 1000 // 10}" for version in (driver, runtime))
    if not driver:
        return no_driver("it does not tell its version")
    if 12000 <= driver < 13000 <= runtime:
        cure = "Install the bindings for this driver: pip install 'cuda-bindings>=12.8,<13'"
    else:
        cure = "Update NVIDIA's driver: CUDA 12 needs r525 or newer, CUDA 13 needs r580"
    return DeviceUnavailableError(
        f"the installed cuda-bindings are for CUDA {needs}, and this driver is for CUDA {has}",
        cure=cure,
        driver=driver,
        runtime=runtime,
    )


def no_driver(cause: str) -> DeviceUnavailableError:
    """Return the error for a missing or broken NVIDIA driver."""
    return DeviceUnavailableError(
        f"there is no working NVIDIA driver ({cause})",
        cure="Install NVIDIA's driver and check it with nvidia-smi (start a container with --gpus all)",
        cause=cause,
    )


def no_such_gpu(index: int, count: int) -> DeviceUnavailableError:
    """Return the error for a GPU index out of range."""
    return DeviceUnavailableError(
        f"there is no GPU {index}: {count or 'none'} visible",
        cure="Request 'cuda:0', or check CUDA_VISIBLE_DEVICES" if count else "Check CUDA_VISIBLE_DEVICES",
        count=count,
    )


def out_of_memory(what: str, nbytes: int) -> EngineError:
    """Return the error for a failed allocation."""
    return EngineError(f"there is not enough {what} for {nbytes / 1e6:.1f} MB", cure=OUT_OF_MEMORY_CURE, needed=nbytes)


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of a C-contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8)
