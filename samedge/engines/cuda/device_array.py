"""Arrays that stay on the engine's device: passed to the next engine, or to torch, without a copy to the host.

Such an array is read-only, and may still be incomplete: readers order their work after its writing, with
`DeviceArray.wait_on` for work on a stream and `DeviceArray.wait` on the host.
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
"""The DLPack stream value of a consumer that orders its work itself."""


class DeviceArray(ABC):
    """A C-contiguous array on the device of an engine.

    torch, CuPy and JAX can read it without a copy through their ``from_dlpack``.

    Attributes:
        shape: Shape of the array.
        dtype: dtype of the array.
        nbytes: Size in bytes.
        device: Its device, as in `samedge.engines.protocol.Engine.device`: "cuda:0".
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
        """Device address."""

    @abstractmethod
    def numpy(self) -> Array:
        """Copy the array to the host."""

    def rows(self, rows: Sequence[int]) -> Array:
        """Copy entries of the first axis to the host."""
        picked = self.pick(rows)
        if picked is not None:
            return picked.numpy()
        everything = self.numpy()
        everyone = len(rows) == len(everything) and list(rows) == list(range(len(rows)))
        return everything if everyone else everything[list(rows)]

    def pick(self, rows: Sequence[int]) -> DeviceArray | None:
        """Copy entries of the first axis on the device; return None if unsupported."""
        del rows
        return None

    @abstractmethod
    def hold(self) -> Callable[[], None]:
        """Keep the memory alive, even if the array is closed, until the returned function is called, once."""

    @abstractmethod
    def close(self) -> None:
        """Release the memory. Idempotent; garbage collection does the same."""

    @abstractmethod
    def wait(self) -> None:
        """Block the calling thread until the array is complete."""

    def wait_on(self, memory: CudaMemory, stream: int) -> None:
        """Make later work of a stream wait until the array is complete. Call inside the memory's context."""
        del memory, stream
        self.wait()

    def lend(self, stream: int | None) -> Callable[[], None]:
        """Lend the array to another library; return the function to call when it is released.

        Args:
            stream: The library's stream, whose reads wait until the array is complete; None if the library waits
                itself.
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
            raise BufferError(f"{self!r} cannot be copied, only lent")  # required by the DLPack protocol
        del max_version  # every consumer accepts the oldest form
        address = self.address
        reader = None if stream == NO_STREAM else LEGACY_STREAM if stream is None else int(stream)
        loan = _Loan(self.lend(reader))
        return capsule(address, self.shape, self.dtype, device=self.__dlpack_device__(), owner=loan)

    def __repr__(self) -> str:
        return f"DeviceArray({self.spec} on {self.device})"


class _Loan:
    """A loan, alive as long as another library uses the memory."""

    def __init__(self, release: Callable[[], None]) -> None:
        weakref.finalize(self, release)
