"""Choice of the fastest backend: measured once for each graph and machine, and kept with the reasons.

    with open_decided(path, decide(path, sha256=digest)) as engine:
        engine.run(feeds)
    for decision in kept_decisions():
        print(decision.graph, decision.backend, decision.device, decision.reason)

A decision is one small JSON file in the cache folder. It stays valid as long as the graph, the machine, the backends'
versions and the request are unchanged; otherwise, or if the file is damaged or of another schema, the measurement is
repeated.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import msgspec

from samedge.engines import registry
from samedge.engines.protocol import Engine
from samedge.engines.trials import DEFAULT_SECONDS, Candidate, Clock, Trial, measure
from samedge.errors import EngineError, SamedgeError, UsageError
from samedge.storage.atomic import write_whole
from samedge.storage.files import cache_folder, sha256_file

AUTO_VARIABLE: Final = "SAMEDGE_AUTO"
"""``first`` selects the first backend that works, unmeasured; a number is the time limit for measuring, seconds."""
TIE: Final = 1.05
"""Among candidates this close to the fastest, the first in the table wins: measurements drift by as much."""
_SCHEMA: Final = 1
_SYSFS: Final = Path("/sys/devices/system/cpu")
_CGROUP: Final = Path("/sys/fs/cgroup")
_CPU_INFO: Final = Path("/proc/cpuinfo")
_BOARD: Final = Path("/proc/device-tree/model")
_CPU_FIELDS: Final = ("model name", "cpu model", "hardware")
_IDENTITY_FIELDS: Final = ("cpu family", "model", "cpu implementer", "cpu part")


def open_decided(
    path: Path, decision: Decision | None, *, device: str | None = None, threads: int | None = None
) -> Engine:
    """Open a graph with the decided backend; without a decision, or if that fails, with the first that can.

    Args:
        path: The graph file.
        decision: Result of `decide` for this file.
        device: As for `decide`: a named device is used or raises an error.
        threads: CPU threads for one run; None for all physical cores.

    Raises:
        SamedgeError: As `samedge.engines.registry.open_engine`.
    """
    if decision is not None:
        with suppress(EngineError):  # it worked when measured; otherwise the table decides
            return registry.open_engine(path, backend=decision.backend, device=decision.device, threads=threads)
    return registry.open_engine(path, device=device, threads=threads)


def decide(
    path: Path,
    *,
    sha256: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    sizes: Mapping[str, int] | None = None,
    clock: Clock = time.perf_counter,
) -> Decision | None:
    """Return the fastest backend for a graph on this machine, from the cache or by measuring.

    Args:
        path: The graph file.
        sha256: SHA-256 of the file, if known.
        device: The requested device; None for any.
        threads: CPU threads for one run; None for all physical cores.
        sizes: Size of each free axis by name; 1 for axes not named.
        clock: Monotonic clock, seconds.

    Returns:
        None if there is no choice: fewer than two working backends open such files, none can run this graph, or
        `AUTO_VARIABLE` is ``first``.

    Raises:
        StorageError: The graph file cannot be read.
        UsageError: ``$SAMEDGE_AUTO`` is invalid.
    """
    seconds = _budget()
    if seconds is None or (threads is not None and threads < 1) or not path.is_file():
        return None  # opening reports what is wrong
    candidates, versions = find_candidates(path.suffix, device)
    if len({candidate.backend for candidate in candidates}) < 2:
        return None
    question = Question(
        graph_sha256=sha256 or sha256_file(path),
        machine=machine_facts(),
        backends=versions,
        device=device,
        threads=threads or usable_cores(),
        sizes=dict(sizes or {}),
    )
    kept = find_decision(question)
    if kept is not None:
        return kept
    start = clock()
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    trials = measure(path, candidates, threads=threads, sizes=question.sizes, seconds=seconds, clock=clock)
    chosen = choose(trials)
    if chosen is None:
        return None
    decision = new_decision(path.name, question, *chosen, trials, clock() - start, created)
    keep_decision(decision)
    return decision


def find_candidates(suffix: str, device: str | None = None) -> tuple[list[Candidate], dict[str, str]]:
    """Return the candidates for a graph file, in table order, and the versions of the backends that work.

    Args:
        suffix: Suffix of the graph file.
        device: The requested device; None for every device worth trying.
    """
    candidates: list[Candidate] = []
    versions: dict[str, str] = {}
    for backend in registry.known_backends():
        if suffix not in backend.suffixes or not backend.measured:
            continue
        found = backend.factory().probe()
        if not found.ok:
            continue
        versions[backend.name] = found.reason
        devices = found.devices if device is None else (device,)
        candidates += [Candidate(backend.name, name) for name in devices if _kind(name) in backend.measured]
    return candidates, versions


def choose(trials: Sequence[Trial]) -> tuple[Trial, str] | None:
    """Return the winning trial and the reason as a sentence, or None if no candidate could run.

    First runs are compared if one of the candidates had no time for more.
    """
    running = [trial for trial in trials if trial.usable and trial.first_milliseconds is not None]
    if not running:
        return None
    hopeful = [trial for trial in running if not trial.stopped]
    warm = all(trial.milliseconds is not None for trial in hopeful)

    def cost(trial: Trial) -> float:
        value = trial.milliseconds if warm else trial.first_milliseconds
        return math.inf if value is None else value

    fastest = min(hopeful, key=cost)
    winner = next(trial for trial in hopeful if cost(trial) <= cost(fastest) * TIE)
    what = f"{winner.label}: {cost(winner):.3g} ms{'' if warm else ' for the first run'}"
    others = [trial for trial in running if trial is not winner]
    if not others:
        return winner, f"{what}, the only candidate measured"
    if winner is not fastest:
        return winner, f"{what}, within {TIE - 1:.0%} of {fastest.label}, which the table ranks below it"
    compared = [trial for trial in others if trial in hopeful]
    if not compared:
        return winner, f"{what}, and the others were far behind"
    second = min(compared, key=cost)
    return winner, f"{what}, {cost(second) / max(cost(winner), 1e-9):.2f} times as fast as {second.label}"


def _kind(device: str) -> str:
    """Return the device without its index: "cuda" of "cuda:1", "gpu" of "GPU.1"."""
    return device.lower().partition(":")[0].partition(".")[0]


def _budget() -> float | None:
    """Return the seconds for measuring, or None to measure nothing."""
    text = os.environ.get(AUTO_VARIABLE, "").strip().lower()
    if text in ("", "measure"):
        return DEFAULT_SECONDS
    if text == "first":
        return None
    with suppress(ValueError):
        seconds = float(text)
        if 0 < seconds < math.inf:
            return seconds
    raise UsageError(
        f"invalid {AUTO_VARIABLE} {text!r}",
        cure="Set it to first (use the first backend that works) or to a time limit for measuring in seconds",
    )


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The scope of a decision, and its key.

    Attributes:
        graph_sha256: SHA-256 of the graph file.
        machine: Result of `machine_facts`.
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
        return hashlib.sha256(json.dumps(msgspec.to_builtins(self), sort_keys=True).encode()).hexdigest()[:32]


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
        decision = _read_decision(decisions_folder() / f"{question.key()}.json")
        if decision is not None and decision.question == question:
            return decision
    return None


def kept_decisions() -> tuple[Decision, ...]:
    """Return all readable decisions of this user, latest first.

    Raises:
        StorageError: No cache folder is available.
    """
    found = (_read_decision(path) for path in decisions_folder().glob("*.json"))
    kept = [decision for decision in found if decision is not None]
    return tuple(sorted(kept, key=lambda decision: (decision.created, decision.graph), reverse=True))


def new_decision(
    graph: str, question: Question, winner: Trial, reason: str, trials: tuple[Trial, ...], seconds: float, created: str
) -> Decision:
    """Return a decision of the current schema; the arguments are its attributes."""
    return Decision(_SCHEMA, graph, question, winner.backend, winner.device, reason, trials, round(seconds, 3), created)


def _read_decision(path: Path) -> Decision | None:
    try:
        data = path.read_bytes()
        head: object = json.loads(data)
        if not isinstance(head, Mapping) or head.get("schema") != _SCHEMA:
            return None
        return msgspec.json.decode(data, type=Decision)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):  # ValueErrors, in later versions of msgspec
        return None


def machine_facts() -> dict[str, str]:
    """Return the processor, the board if known, the usable cores, and the system."""
    facts = {
        "processor": _processor(),
        "board": _read_text(_BOARD).rstrip("\0").strip(),
        "cores": str(usable_cores()),
        "architecture": platform.machine(),
        "system": platform.system(),
    }
    return {name: value for name, value in facts.items() if value}


def _processor() -> str:
    """Return the processor's name and model numbers: names alone are ambiguous, notably in virtual machines."""
    fields: dict[str, str] = {}
    for line in _read_text(_CPU_INFO).splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    named = next((fields[name] for name in _CPU_FIELDS if fields.get(name)), platform.processor())
    numbers = " ".join(f"{name} {fields[name]}" for name in _IDENTITY_FIELDS if fields.get(name))
    return f"{named} ({numbers})" if numbers else named


def usable_cores() -> int:
    """Return the number of physical cores that this process may use, at least 1.

    Affinity (taskset, cpusets) and the container's CPU quota are respected; hyper-threads count once if the system
    identifies them.
    """
    allowed = _allowed_cpus()
    cores = {_core_of(cpu) for cpu in allowed}
    quota = _quota()
    return max(1, len(cores) if quota is None else min(len(cores), int(quota + 0.5)))


def _allowed_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _core_of(cpu: int) -> str:
    """Return the sibling list shared by the hyper-threads of a core; an unlisted CPU is its own core."""
    text = _read_text(_SYSFS / f"cpu{cpu}" / "topology" / "thread_siblings_list").strip()
    return text or str(cpu)


def _quota() -> float | None:
    """Return the CPUs allowed by the control group (version 2, then 1), or None."""
    limit, _, period = _read_text(_CGROUP / "cpu.max").strip().partition(" ")
    if not period:
        limit = _read_text(_CGROUP / "cpu" / "cpu.cfs_quota_us")
        period = _read_text(_CGROUP / "cpu" / "cpu.cfs_period_us")
    try:
        quota = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return quota if quota > 0 else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
