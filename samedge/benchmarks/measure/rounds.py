"""Interleaved timing of several callables in one process.

The same graph runs 10 to 15 % faster or slower from one process, and one minute, to the next. Ratios are therefore
taken only between calls of the same round: each round calls every contender once, in the same order, and the median of
the rounds' ratios is reported.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import msgspec
import numpy as np

from samedge.errors import BenchmarkError

WARM_UPS: Final = 2
"""With onnxruntime, the second call of a plain export of ViT-B takes twice as long as the third."""

NOTHING: Final = "–"
"""Table cell without a figure."""

_FENCE: Final = 1.5
_FEWEST_FOR_OUTLIERS: Final = 5

R = TypeVar("R")

Clocks: TypeAlias = Callable[[], tuple[float, float]]
"""Returns monotonic wall and CPU time, s."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A callable to time; it does the work once."""

    name: str
    call: Callable[[], object]


class Spread(msgspec.Struct, frozen=True):
    """Location and dispersion of a series of numbers.

    Attributes:
        low: The 10th percentile (interpolated).
        high: The 90th percentile.
        outliers: Values further than 1.5 interquartile ranges outside the quartiles; 0 for fewer than five values. They
            are counted, not excluded.
        p99: The 99th percentile (near the maximum for fewer than a hundred values); None in reports that predate it.
    """

    median: float
    low: float
    high: float
    count: int
    outliers: int = 0
    p99: float | None = None


class Timing(msgspec.Struct, frozen=True):
    """Results of one contender: seconds per call, CPU seconds over all threads, and both as ratios.

    A ratio is the time of the baseline divided by that of this contender, per round: 2 is twice as fast.
    """

    wall: Spread
    cpu: Spread
    ratio: Spread
    cpu_ratio: Spread


def process_clocks() -> tuple[float, float]:
    """Return wall time and this process's CPU time, s."""
    return time.perf_counter(), time.process_time()


def spread_of(values: Sequence[float]) -> Spread:
    """Return the spread of a series of numbers."""
    if not values:
        raise BenchmarkError("no values to take the median of", cure="Measure at least one round")
    numbers = np.asarray(values, np.float64)
    low, first, median, third, high, p99 = np.percentile(numbers, (10, 25, 50, 75, 90, 99)).tolist()
    fence = _FENCE * (third - first)
    outside = (numbers < first - fence) | (numbers > third + fence)
    outliers = int(outside.sum()) if len(numbers) >= _FEWEST_FOR_OUTLIERS else 0
    return Spread(median, low, high, len(numbers), outliers, p99)


def interleave(
    contenders: Sequence[Contender],
    rounds: int,
    *,
    warm_ups: int = WARM_UPS,
    clocks: Clocks = process_clocks,
    report: Callable[[int], None] = lambda _: None,
) -> dict[str, Timing]:
    """Return the timing of each contender, in their order; the first is the baseline.

    Raises:
        BenchmarkError: There is no contender, names are not unique, or a number of rounds is invalid.
    """
    times = times_in_turn(contenders, rounds, warm_ups=warm_ups, clocks=clocks, report=report)
    baseline = times[contenders[0].name]
    return {name: _timing(baseline, own) for name, own in times.items()}


def times_in_turn(
    contenders: Sequence[Contender],
    rounds: int,
    *,
    warm_ups: int = WARM_UPS,
    clocks: Clocks = process_clocks,
    report: Callable[[int], None] = lambda _: None,
) -> dict[str, list[tuple[float, float]]]:
    """Return wall and CPU time of each call of each contender, s, in the order of the rounds.

    `report` is called at the start of each round with its number, from 1, including warm-ups.
    """
    names = [contender.name for contender in contenders]
    if not names or len(set(names)) < len(names):
        raise BenchmarkError("no contender, or names that are not unique", cure="Give each contender its own name")
    if rounds < 1 or warm_ups < 0:
        raise BenchmarkError(f"invalid rounds: {rounds} and {warm_ups} warm-ups", cure="Measure at least one round")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(warm_ups + rounds):
        report(turn + 1)
        for contender in contenders:
            wall, cpu, result = timed(contender.call, clocks)
            del result  # releasing the result is not part of the call's time
            if turn >= warm_ups:
                times[contender.name].append((wall, cpu))
    return times


def timed(
    call: Callable[[], R], clocks: Clocks = process_clocks, *, begun: Callable[[], tuple[float, float]] | None = None
) -> tuple[float, float, R]:
    """Call once, and return wall and CPU time, s, and the result; Python's garbage collection is off meanwhile.

    If the call begins with work that does not count, `begun` returns the clocks at the start of the timed part.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        wall, cpu = clocks()
        result = call()
        wall_after, cpu_after = clocks()
    finally:
        if was_enabled:
            gc.enable()
    if begun is not None:
        wall, cpu = begun()
    return wall_after - wall, cpu_after - cpu, result


def _timing(baseline: Sequence[tuple[float, float]], own: Sequence[tuple[float, float]]) -> Timing:
    (base_wall, base_cpu), (wall, cpu) = zip(*baseline, strict=True), zip(*own, strict=True)
    return Timing(
        spread_of(wall),
        spread_of(cpu),
        spread_of(list(map(_ratio, base_wall, wall))),
        spread_of(list(map(_ratio, base_cpu, cpu))),
    )


def _ratio(baseline: float, own: float) -> float:
    """Return the ratio of two times; 1 if the clock was too coarse to resolve either."""
    if own > 0:
        return baseline / own
    return 1.0 if baseline <= 0 else float("inf")


def spread_text(spread: Spread, unit: str, scale: float = 1.0) -> str:
    """Return the median with its unit and, in brackets, the 10th and 90th percentiles and the number of outliers."""
    low, middle, high = (short(value * scale) for value in (spread.low, spread.median, spread.high))
    outliers = f", {spread.outliers} outlier{'s' if spread.outliers > 1 else ''}" if spread.outliers else ""
    return f"{middle}{unit} ({low}–{high}{outliers})"


def short(value: float) -> str:
    """Return a number with three digits, but never fewer than its integer digits."""
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{decimals}f}"
