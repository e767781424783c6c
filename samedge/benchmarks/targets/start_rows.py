"""Start-up rows: first calls against warm ones, the import, and the time to the first mask.

Each round is a separate child process, because a process has only one first call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final

from samedge.benchmarks.measure.artefacts import IMAGES
from samedge.benchmarks.measure.child import call_in_child
from samedge.benchmarks.measure.rounds import spread_of
from samedge.benchmarks.targets.context import Bench, cpu_backends
from samedge.benchmarks.targets.first_calls import import_time
from samedge.benchmarks.targets.results import Row

FIRST_CALLS: Final = "first-call"
IMPORT: Final = "import"
FIRST_MASK: Final = "first-mask"

_WARM_CALLS: Final = 3
_COLD_CALLS: Final = 2


def start_rows(bench: Bench, model: str, wanted: Sequence[str]) -> Iterator[Row]:
    """Yield the wanted rows for a model, one per backend."""
    if not {FIRST_CALLS, FIRST_MASK}.intersection(wanted):
        return
    bundle = bench.artefacts.bundle(model, form=bench.settings.form)
    for backend in cpu_backends():
        arguments = {
            "bundle": str(bundle),
            "image": str(IMAGES[0]),
            "backend": backend,
            "threads": bench.settings.threads,
        }
        rounds = []
        for turn in range(bench.settings.rounds):
            bench.say(f"First calls of {model} in {backend}, process {turn + 1} of {bench.settings.rounds}")
            rounds.append(call_in_child("samedge.benchmarks.targets.first_calls:begin", arguments))
        if FIRST_CALLS in wanted:
            yield _first_calls(model, backend, rounds)
        if FIRST_MASK in wanted:
            yield _first_mask(model, backend, rounds)


def import_rows(bench: Bench, model: str, wanted: Sequence[str]) -> Iterator[Row]:
    """Yield the row of the import, if wanted; it has no model."""
    if IMPORT not in wanted:
        return
    times = []
    for turn in range(bench.settings.warm_ups + bench.settings.rounds):
        bench.say("Importing")
        seconds = import_time()
        if turn >= bench.settings.warm_ups:  # the first reads the disk
            times.append(seconds * 1e3)
    spread = spread_of(times)
    yield Row(
        row=IMPORT,
        model=model,
        ours="a new process",
        figures={"import_ms": spread.median},
        notes=(f"{spread.low:.0f} to {spread.high:.0f} ms in {spread.count} processes",),
    )


def _first_calls(model: str, backend: str, rounds: Sequence[dict[str, Any]]) -> Row:
    """Return the row of the first calls, whose figures are the worse of encoder and decoder."""
    figures: dict[str, float] = {}
    spreads = {}
    for part in ("encode", "decode"):
        for place, name in enumerate(("first", "second")):
            spread = spread_of([times[part][place] / median(times[part][_COLD_CALLS:]) for times in rounds])
            spreads[f"{part}, {name}"] = spread
            figures[f"{part}_{name}"] = spread.median
            figures[name] = max(figures.get(name, 0.0), spread.median)
    warm = {part: median(median(times[part][_COLD_CALLS:]) for times in rounds) for part in ("encode", "decode")}
    return Row(
        row=FIRST_CALLS,
        model=model,
        ours=f"{backend}, encoder and decoder",
        own_ratio=max(spreads.values(), key=lambda spread: spread.median),
        figures={**figures, "warm_encode_ms": warm["encode"] * 1e3, "warm_decode_ms": warm["decode"] * 1e3},
        notes=tuple(
            f"{name}: {spread.median:.2f}x ({spread.low:.2f} to {spread.high:.2f}) a warm call"
            for name, spread in spreads.items()
        ),
    )


def _first_mask(model: str, backend: str, rounds: Sequence[dict[str, Any]]) -> Row:
    spread = spread_of([times["first_mask"] - median(times["encode"][_COLD_CALLS:]) for times in rounds])
    loads = spread_of([times["load"] for times in rounds])
    return Row(
        row=FIRST_MASK,
        model=model,
        ours=f"{backend}, a new process",
        figures={"first_mask_s": spread.median, "load_s": loads.median},
        notes=(
            f"{spread.low:.2f} to {spread.high:.2f} s in {spread.count} processes; loading alone {loads.median:.2f} s",
        ),
    )
