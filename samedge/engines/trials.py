"""Trials of a graph on several backends: each is opened, run a few times on noise, timed, and closed.

Only one is open at a time. The first run is reported separately: it includes the backend's deferred set-up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

import msgspec
import numpy as np

from samedge.engines import registry
from samedge.engines.protocol import Engine
from samedge.errors import SamedgeError
from samedge.types import Array, TensorSpec

DEFAULT_SECONDS: Final = 20.0
RUNS: Final = 3
"""Counted runs, after one uncounted."""
HOPELESS: Final = 3.0
"""A candidate whose first run takes this many times the best first run is not run again, if runs are slow: a short
first run may be mostly set-up."""
_SLOW: Final = 1000.0  # ms

Clock: TypeAlias = Callable[[], float]
"""A monotonic clock, seconds."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend and a device to try it on."""

    backend: str
    device: str


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


def measure(
    path: Path,
    candidates: Sequence[Candidate],
    *,
    threads: int | None = None,
    sizes: Mapping[str, int] | None = None,
    seconds: float = DEFAULT_SECONDS,
    clock: Clock = time.perf_counter,
) -> tuple[Trial, ...]:
    """Open and run a graph with every candidate in turn.

    Each gets an equal share of the time plus whatever earlier ones left over; a run in progress is never cut off.

    Args:
        path: The graph file.
        candidates: Candidates in the order to try.
        threads: CPU threads for one run; None for all physical cores.
        sizes: Size of each free axis by name; 1 for axes not named.
        seconds: Time limit for all candidates together.
        clock: Monotonic clock, seconds.
    """
    start = clock()
    trials: list[Trial] = []
    for number, candidate in enumerate(candidates, 1):
        firsts = [trial.first_milliseconds for trial in trials if trial.usable and trial.first_milliseconds is not None]
        if firsts and clock() - start >= seconds:
            note = f"not tried: the {seconds:g} s for measuring were used up"
            trials.append(Trial(candidate.backend, candidate.device, note=note))
            continue
        until = start + seconds * number / len(candidates)
        trials.append(
            _try(path, candidate, threads, sizes or {}, best=min(firsts, default=math.inf), until=until, clock=clock)
        )
    return tuple(trials)


def _try(
    path: Path,
    candidate: Candidate,
    threads: int | None,
    sizes: Mapping[str, int],
    *,
    best: float,
    until: float,
    clock: Clock,
) -> Trial:
    name, device = candidate.backend, candidate.device
    begun = clock()
    note: str | None
    try:
        with registry.open_engine(path, backend=name, device=device, threads=threads) as engine:
            opened = round(clock() - begun, 3)
            feeds = noise(engine.inputs, sizes)
            first, outputs = _timed(engine, feeds, clock)
            wrong = _non_finite_output(outputs)
            if wrong is not None:
                why = f"its output {wrong!r} is not finite"
                return Trial(name, device, first_milliseconds=first, open_seconds=opened, runs=1, note=why)
            del outputs
            stopped = first > max(HOPELESS * best, _SLOW)
            if stopped:
                note, later = f"stopped: its first run took {first / max(best, 1.0):.1f} times the best first run", []
            else:
                later = _later_runs(engine, feeds, first, until, clock)
                note = None if len(later) == RUNS else "no time for more runs"
    except SamedgeError as error:
        return Trial(name, device, note=error.what)
    return Trial(
        name,
        device,
        milliseconds=round(median(later), 3) if later else None,
        first_milliseconds=first,
        open_seconds=opened,
        runs=1 + len(later),
        note=note,
        usable=True,
        stopped=stopped,
    )


def _later_runs(engine: Engine, feeds: Mapping[str, Array], first: float, until: float, clock: Clock) -> list[float]:
    """Return the milliseconds of each further run that fits into the time limit."""
    later: list[float] = []
    while len(later) < RUNS and clock() + min([first, *later]) / 1e3 <= until:
        later.append(_timed(engine, feeds, clock)[0])
    return later


def noise(inputs: Mapping[str, TensorSpec], sizes: Mapping[str, int]) -> dict[str, Array]:
    """Return feeds for a graph: reproducible normal noise for floating-point inputs, zeros for the rest.

    Args:
        inputs: Name to shape and dtype.
        sizes: Size of each free axis by name; 1 for axes not named.
    """
    rng = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for name, spec in inputs.items():
        shape = tuple(sizes.get(axis, 1) if isinstance(axis, str) else axis for axis in spec.shape)
        if np.issubdtype(spec.dtype, np.floating):
            feeds[name] = rng.standard_normal(shape, np.float32).astype(spec.dtype, copy=False)
        else:
            feeds[name] = np.zeros(shape, spec.dtype)
    return feeds


def _timed(engine: Engine, feeds: Mapping[str, Array], clock: Clock) -> tuple[float, dict[str, Array]]:
    begun = clock()
    outputs = engine.run(feeds)
    return round((clock() - begun) * 1e3, 3), outputs


def _non_finite_output(outputs: Mapping[str, Array]) -> str | None:
    for name, array in outputs.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            return name
    return None
