"""What the fake GPU remembers of its memory and of the work that is still to be done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from threading import RLock
from typing import Concatenate, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class CudaMisuseError(Exception):
    """The code under test used CUDA in a way that is wrong. Not for users, hence no `SamedgeError`."""


class Locked(Protocol):
    """What has a lock that the thread which holds it may take again."""

    lock: RLock


L = TypeVar("L", bound=Locked)


def one_at_a_time(method: Callable[Concatenate[L, P], R]) -> Callable[Concatenate[L, P], R]:
    """Make a method that other threads wait for, as CUDA's calls do."""

    @wraps(method)
    def locked(self: L, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            return method(self, *args, **kwargs)

    return locked


@dataclass(eq=False, slots=True)
class FakeMemory:
    """One allocation of the device or of the host, and the work that has still to touch it."""

    name: str
    data: NDArray[np.uint8]
    alive: bool = True
    pending: list[FakeWork] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class FakeWork:
    """One thing that a stream has still to do, and the work of other streams (by number) that it waits for."""

    name: str
    do: Callable[[], None]
    reads: tuple[FakeMemory, ...]
    writes: tuple[FakeMemory, ...]
    stream: int
    number: int
    after: dict[int, int]


@dataclass(eq=False, slots=True)
class FakeStream:
    """What a stream has still to do, and the work of other streams (by number) that what comes now waits for."""

    queue: list[FakeWork] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)


class FakePinned:
    """Pinned memory that may not be looked at while a copy is under way."""

    def __init__(self, memory: FakeMemory) -> None:
        self.memory = memory

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.memory.data.nbytes

    def view(self) -> NDArray[np.uint8]:
        """Its bytes.

        Raises:
            CudaMisuseError: It was freed, or a copy is under way.
        """
        if not self.memory.alive:
            raise CudaMisuseError(f"{self.memory.name} is used after it was freed")
        if self.memory.pending:
            name = self.memory.pending[0].name
            raise CudaMisuseError(f"the host touches {self.memory.name} while {name} is under way: synchronise first")
        return self.memory.data
