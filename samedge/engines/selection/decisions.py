"""What was measured when a backend was chosen: one small JSON file a decision, in the cache folder.

    for decision in kept_decisions():
        print(decision.graph, decision.backend, decision.device, decision.reason)

A decision is found again by the graph's content, the machine, the versions of the backends and what was asked for; when
any of these changes it is measured again. So it is when the file is damaged or of another samedge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from samedge.errors import SamedgeError
from samedge.storage.atomic import write_whole
from samedge.storage.cache import cache_folder

_SCHEMA: Final = 1


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of one candidate.

    Attributes:
        backend: Its name in the table of backends.
        device: As it was asked for.
        milliseconds: The median of the runs after the first; None if there was none.
        first_milliseconds: The first run, which pays for what a backend puts off until then; None if it failed.
        open_seconds: How long opening took; None if it failed.
        runs: How often it ran.
        note: Why it could not be used, or was not measured to the end; None if all went well.
        usable: Whether it gave numbers.
        stopped: Whether it was so far behind after its first run that it was not run again.
    """

    backend: str
    device: str
    milliseconds: float | None = None
    first_milliseconds: float | None = None
    open_seconds: float | None = None
    runs: int = 0
    note: str | None = None
    usable: bool = False
    stopped: bool = False

    @property
    def label(self) -> str:
        """Backend and device, as sentences name them."""
        return f"{self.backend} on {self.device}"


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a decision is about, and holds for.

    Attributes:
        graph_sha256: Of the graph file.
        machine: As `samedge.engines.selection.machine.machine_facts` tells it.
        backends: Name to version and devices, of those that work here.
        device: The device that was asked for; None for any.
        threads: CPU threads for one run.
        sizes: Sizes that free axes were given.
    """

    graph_sha256: str
    machine: dict[str, str]
    backends: dict[str, str]
    device: str | None
    threads: int
    sizes: dict[str, int]

    def key(self) -> str:
        """Return a name for the file that the answer is kept in."""
        return sha256(json.dumps(msgspec.to_builtins(self), sort_keys=True).encode()).hexdigest()[:32]


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which backend runs a graph here, and why.

    Attributes:
        schema: Of this record.
        graph: The graph's file name.
        question: What it holds for.
        backend: What was chosen.
        device: The device that it was measured on.
        reason: A sentence.
        trials: What became of every candidate, in the order in which they were tried.
        seconds: How long it all took.
        created: When, ISO 8601 in UTC.
    """

    schema: int
    graph: str
    question: Question
    backend: str
    device: str
    reason: str
    trials: tuple[Trial, ...]
    seconds: float
    created: str


def decisions_folder() -> Path:
    """Return where decisions are kept; it need not exist. Removing a file there makes samedge measure again.

    Raises:
        StorageError: There is no place for a cache.
    """
    return cache_folder() / "decisions"


def keep_decision(decision: Decision) -> None:
    """Write a decision, replacing an older one at once. A cache that cannot be written to costs time only."""
    with suppress(SamedgeError):
        data = msgspec.json.format(msgspec.json.encode(decision), indent=2) + b"\n"
        write_whole(decisions_folder() / f"{decision.question.key()}.json", data)


def find_decision(question: Question) -> Decision | None:
    """Return the kept answer to exactly this question, or None."""
    with suppress(SamedgeError):
        decision = _read(decisions_folder() / f"{question.key()}.json")
        if decision is not None and decision.question == question:
            return decision
    return None


def kept_decisions() -> tuple[Decision, ...]:
    """Return all decisions of this user that can be read, the latest first.

    Raises:
        StorageError: There is no place for a cache.
    """
    found = (_read(path) for path in decisions_folder().glob("*.json"))
    kept = [decision for decision in found if decision is not None]
    return tuple(sorted(kept, key=lambda decision: (decision.created, decision.graph), reverse=True))


def new_decision(
    graph: str, question: Question, winner: Trial, reason: str, trials: tuple[Trial, ...], seconds: float, created: str
) -> Decision:
    """Return a decision of the present schema; the arguments are its attributes."""
    return Decision(_SCHEMA, graph, question, winner.backend, winner.device, reason, trials, round(seconds, 3), created)


def _read(path: Path) -> Decision | None:
    try:
        data = path.read_bytes()
        head: object = json.loads(data)
        if not isinstance(head, Mapping) or head.get("schema") != _SCHEMA:
            return None
        return msgspec.json.decode(data, type=Decision)
    except (OSError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return None
