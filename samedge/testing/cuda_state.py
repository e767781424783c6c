"""State of the fake GPU: its memory and its pending work."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class CudaMisuseError(Exception):
    """Misuse of CUDA by the code under test. Not for users, hence not a `SamedgeError`."""


def one_at_a_time(kind: type[T]) -> type[T]:
    """Serialise the methods of a class across threads, as CUDA's calls are, with its reentrant ``lock``.

    ``capture`` and ``current`` are left out: other threads may go on meanwhile.
    """
    for name, method in list(vars(kind).items()):
        if inspect.isfunction(method) and not name.startswith("_") and name not in ("capture", "current"):
            setattr(kind, name, _locked(method))
    return kind


def _locked(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def locked(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        with self.lock:
            return method(self, *args, **kwargs)

    return locked


@dataclass(eq=False, slots=True)
class FakeMemory:
    """One allocation on the device or host, and the pending work that uses it."""

    name: str
    data: NDArray[np.uint8]
    alive: bool = True
    pending: list[FakeWork] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class FakeWork:
    """A pending operation of a stream, and the operations of other streams (by number) that it waits for."""

    name: str
    do: Callable[[], None]
    reads: tuple[FakeMemory, ...]
    writes: tuple[FakeMemory, ...]
    stream: int
    number: int
    after: dict[int, int]


@dataclass(eq=False, slots=True)
class FakeStream:
    """A stream's pending operations, and those of other streams (by number) that its next one waits for."""

    queue: list[FakeWork] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)


class FakePinned:
    """Pinned memory that must not be accessed while a copy is in progress."""

    def __init__(self, memory: FakeMemory) -> None:
        self.memory = memory

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.memory.data.nbytes

    def view(self) -> NDArray[np.uint8]:
        """Return its bytes.

        Raises:
            CudaMisuseError: It is freed, or a copy is in progress.
        """
        if not self.memory.alive:
            raise CudaMisuseError(f"{self.memory.name} is used after it was freed")
        if self.memory.pending:
            name = self.memory.pending[0].name
            raise CudaMisuseError(f"the host touches {self.memory.name} while {name} is in progress: synchronise first")
        return self.memory.data
