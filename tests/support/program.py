"""The command line as tests see it: arguments in, a status and two texts out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of the program left behind."""

    status: int
    out: str
    err: str


class Program(Protocol):
    """Runs the program with these arguments."""

    def __call__(self, *arguments: object) -> Outcome: ...
