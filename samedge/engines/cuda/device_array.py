"""Arrays that stay where an engine computes: what it hands to the next engine, or to torch, not by way of the host.

Who holds such an array may read it and never writes to it. It may not be complete yet: whoever reads it orders that
after its writing, by `DeviceArray.wait_on` for work on a stream, by `DeviceArray.wait` on the host.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Final

import numpy as np

from samedge.engines.cuda.dlpack import CPU, CUDA, capsule
from samedge.engines.cuda.memory import LEGACY_STREAM, CudaMemory
from samedge.types import Array, TensorSpec

NO_STREAM: Final = -1
"""What a consumer of DLPack says that orders its work itself."""


class DeviceArray(ABC):
    """A C-contiguous array where an engine computes.

    It is handed to torch, CuPy or JAX with their ``from_dlpack``, without a copy.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        nbytes: Its size.
        device: Where it lies, as `samedge.engines.protocol.Engine.device` says it: "cuda:0".
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], device: str) -> None:
        self.shape = shape
        self.dtype = dtype
        self.nbytes = prod(shape) * dtype.itemsize
        self.device = device

    @property
    def spec(self) -> TensorSpec:
        """Shape and dtype."""
        return TensorSpec(self.shape, self.dtype)

    @property
    @abstractmethod
    def address(self) -> int:
        """Where it lies on the device.

        Raises:
            EngineError: It was closed.
        """

    @abstractmethod
    def numpy(self) -> Array:
        """Return a copy on the host.

        Raises:
            EngineError: It was closed, or the copy failed.
        """

    def rows(self, rows: Sequence[int]) -> Array:
        """Return a copy of some entries of the first axis on the host.

        Raises:
            EngineError: It was closed, or the copy failed.
        """
        picked = self.pick(rows)
        if picked is not None:
            return picked.numpy()
        everything = self.numpy()
        everyone = len(rows) == len(everything) and list(rows) == list(range(len(rows)))
        return everything if everyone else everything[list(rows)]

    def pick(self, rows: Sequence[int]) -> DeviceArray | None:
        """Return a copy of some entries of the first axis on the device; None where that cannot be had.

        Raises:
            EngineError: It was closed, there is not enough memory, or the copy failed.
        """
        del rows
        return None

    @abstractmethod
    def hold(self) -> Callable[[], None]:
        """Keep the memory, even if the array is closed, until the function that this returns is called, once."""

    @abstractmethod
    def close(self) -> None:
        """Give up the memory. May be called twice; forgetting the array does the same."""

    @abstractmethod
    def wait(self) -> None:
        """The calling thread waits until the array is complete."""

    def wait_on(self, memory: CudaMemory, stream: int) -> None:
        """What a stream is given from now on begins after the array is complete. Called inside the memory's context."""
        del memory, stream
        self.wait()

    def lend(self, stream: int | None) -> Callable[[], None]:
        """Lend the array to another library; returns what is called when that lets go.

        Args:
            stream: Where the library reads it, which is after it is complete; None where it sees to that itself.
        """
        if stream is not None:
            self.wait()
        return self.hold()

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, _, number = self.device.partition(":")
        return (CPU, 0) if kind == "cpu" else (CUDA, int(number or 0))

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError(f"{self!r} is lent as it is, and not copied")  # what the protocol asks for
        del max_version  # the oldest form is taken by all
        address = self.address
        reader = None if stream == NO_STREAM else LEGACY_STREAM if stream is None else int(stream)
        loan = _Loan(self.lend(reader))
        return capsule(address, self.shape, self.dtype, device=self.__dlpack_device__(), owner=loan)

    def __repr__(self) -> str:
        return f"DeviceArray({self.spec} on {self.device})"


class _Loan:
    """Lives as long as another library uses the memory."""

    def __init__(self, release: Callable[[], None]) -> None:
        weakref.finalize(self, release)
