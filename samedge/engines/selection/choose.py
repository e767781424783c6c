"""Choice of the fastest backend: measured once for each graph and machine, and kept with the reasons.

    with open_decided(path, decide(path, sha256=digest)) as engine:
        engine.run(feeds)

A decision stays valid as long as the graph, the machine, the backends and the request are unchanged.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from samedge.engines import registry
from samedge.engines.protocol import Engine
from samedge.engines.selection.decisions import Decision, Question, Trial, find_decision, keep_decision, new_decision
from samedge.engines.selection.machine import machine_facts, usable_cores
from samedge.engines.selection.trials import DEFAULT_SECONDS, Candidate, Clock, measure
from samedge.errors import EngineError, UsageError
from samedge.storage.digest import sha256_file

AUTO_VARIABLE: Final = "SAMEDGE_AUTO"
"""``first`` selects the first backend that works, unmeasured; a number is the time limit for measuring, seconds."""
TIE: Final = 1.05
"""Among candidates this close to the fastest, the first in the table wins: measurements drift by as much."""


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
    for backend in registry.BACKENDS:
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
