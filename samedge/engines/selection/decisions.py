"""Records of backend choices: one small JSON file for each decision, in the cache folder.

    for decision in kept_decisions():
        print(decision.graph, decision.backend, decision.device, decision.reason)

A decision is looked up by the graph's content, the machine, the backends' versions and the request; if any of them
changes, or the file is damaged or of another schema, the measurement is repeated.
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
    """Outcome of one candidate.

    Attributes:
        backend: Its name in the table of backends.
        device: The device as requested.
        milliseconds: Median of the runs after the first; None if there were none.
        first_milliseconds: First run, which includes the backend's deferred set-up; None if it failed.
        open_seconds: Time to open; None if that failed.
        runs: Number of runs.
        note: Reason it was unusable or not fully measured; None if all went well.
        usable: True if it gave finite results.
        stopped: True if its first run was so slow that it was not run again.
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
        """Backend and device, for use in sentences."""
        return f"{self.backend} on {self.device}"


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The scope of a decision, and its key.

    Attributes:
        graph_sha256: SHA-256 of the graph file.
        machine: Result of `samedge.engines.selection.machine.machine_facts`.
        backends: Name of each working backend to its version and devices.
        device: The requested device; None for any.
        threads: CPU threads for one run.
        sizes: Sizes given to free axes.
    """

    graph_sha256: str
    machine: dict[str, str]
    backends: dict[str, str]
    device: str | None
    threads: int
    sizes: dict[str, int]

    def key(self) -> str:
        """Return the name of the decision's file."""
        return sha256(json.dumps(msgspec.to_builtins(self), sort_keys=True).encode()).hexdigest()[:32]


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The backend chosen for a graph on this machine, with the reason.

    Attributes:
        schema: Version of this record.
        graph: File name of the graph.
        question: Scope of the decision.
        backend: The chosen backend.
        device: The device it was measured on.
        reason: The reason, as a sentence.
        trials: Outcome of every candidate, in the order tried.
        seconds: Total duration.
        created: Time of creation, ISO 8601 in UTC.
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
    """Return the folder of decisions, which may not exist. Removing a file there triggers a new measurement.

    Raises:
        StorageError: No cache folder is available.
    """
    return cache_folder() / "decisions"


def keep_decision(decision: Decision) -> None:
    """Write a decision, replacing an older one. Failure is ignored: an unwritable cache only costs time."""
    with suppress(SamedgeError):
        data = msgspec.json.format(msgspec.json.encode(decision), indent=2) + b"\n"
        write_whole(decisions_folder() / f"{decision.question.key()}.json", data)


def find_decision(question: Question) -> Decision | None:
    """Return the stored decision for exactly this question, or None."""
    with suppress(SamedgeError):
        decision = _read(decisions_folder() / f"{question.key()}.json")
        if decision is not None and decision.question == question:
            return decision
    return None


def kept_decisions() -> tuple[Decision, ...]:
    """Return all readable decisions of this user, latest first.

    Raises:
        StorageError: No cache folder is available.
    """
    found = (_read(path) for path in decisions_folder().glob("*.json"))
    kept = [decision for decision in found if decision is not None]
    return tuple(sorted(kept, key=lambda decision: (decision.created, decision.graph), reverse=True))


def new_decision(
    graph: str, question: Question, winner: Trial, reason: str, trials: tuple[Trial, ...], seconds: float, created: str
) -> Decision:
    """Return a decision of the current schema; the arguments are its attributes."""
    return Decision(_SCHEMA, graph, question, winner.backend, winner.device, reason, trials, round(seconds, 3), created)


def _read(path: Path) -> Decision | None:
    try:
        data = path.read_bytes()
        head: object = json.loads(data)
        if not isinstance(head, Mapping) or head.get("schema") != _SCHEMA:
            return None
        return msgspec.json.decode(data, type=Decision)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):  # ValueErrors, in later versions of msgspec
        return None
