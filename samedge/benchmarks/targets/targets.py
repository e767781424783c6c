"""The table of targets: its rows, their weights and their goals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from msgspec.structs import replace

from samedge.benchmarks.measure.rounds import NOTHING
from samedge.benchmarks.targets.context import Bench
from samedge.benchmarks.targets.everything_rows import BASELINE as GENERATOR
from samedge.benchmarks.targets.everything_rows import DEMO, everything_rows
from samedge.benchmarks.targets.graph_rows import META_DECODER, PLAIN_EXPORT, decoder_rows, encoder_rows
from samedge.benchmarks.targets.results import Goal, Row, judged
from samedge.benchmarks.targets.start_rows import import_rows, start_rows
from samedge.errors import SamedgeError, UsageError

Measure: TypeAlias = Callable[[Bench, str, Sequence[str]], Iterator[Row]]
"""Yields the wanted rows of a group for one model; those that share a baseline are timed together."""

VIT_B: Final = "seeded:sam_vit_b"
MOBILE_SAM: Final = "seeded:mobile_sam"


@dataclass(frozen=True, slots=True)
class Target:
    """A row of the table.

    Attributes:
        name: Name of the row, for ``--rows``.
        what: Description of the measured work.
        measure: The group it belongs to.
        models: Its weights; random ones if only speed and memory count.
    """

    name: str
    what: str
    baseline: str
    measure: Measure
    models: tuple[str, ...]
    goals: tuple[Goal, ...]


_EXACT: Final = Goal("error", 1e-4)
_ENCODER: Final = (PLAIN_EXPORT, encoder_rows, (VIT_B,))
_DECODER: Final = (META_DECODER, decoder_rows, (MOBILE_SAM,), (Goal("speed", 1.9, 3.0), Goal("error", 1e-5)))
_EVERYTHING: Final = (GENERATOR, everything_rows, (DEMO, VIT_B))
_START_MODELS: Final = (MOBILE_SAM, VIT_B)

TARGETS: Final = (
    Target(
        "encoder",
        "encoder fp32, onnxruntime",
        *_ENCODER,
        (Goal("memory", 1 / 5, 1 / 7), Goal("speed", 1.1, 1.3), _EXACT),
    ),
    Target(
        "encoder-int8",
        "encoder int8, onnxruntime",
        *_ENCODER,
        (Goal("speed", 1.7, 2.4), Goal("memory", 1 / 6), Goal("file", 1 / 2.9)),
    ),
    Target("encoder-openvino", "encoder fp32, OpenVINO", *_ENCODER, (Goal("speed", 1.15, 1.3), _EXACT)),
    Target("encoder-openvino-int8", "encoder int8, OpenVINO", *_ENCODER, (Goal("speed", 2.0, 2.6),)),
    Target(
        "encoder-best",
        "encoder fp32, best CPU backend",
        *(PLAIN_EXPORT, encoder_rows, (MOBILE_SAM,)),
        (Goal("speed", 1.35, 2.0), Goal("memory", 0.55), _EXACT),
    ),
    Target("decoder-1", "decoder, 1 prompt of one point", *_DECODER),
    Target("decoder-8", "decoder, 8 prompts of one point", *_DECODER),
    Target("decoder-16", "decoder, 16 prompts of one point", *_DECODER),
    Target(
        "everything-exact",
        "everything, equal masks",
        *_EVERYTHING,
        (Goal("speed", 4.0, 6.0), Goal("peak_gb", 1.5), Goal("recall", 1.0), Goal("precision", 1.0)),
    ),
    Target(
        "everything-fast", "everything, adaptive grid", *_EVERYTHING, (Goal("speed", 12.0, 25.0), Goal("recall", 0.95))
    ),
    Target(
        "first-call",
        "first and second call",
        *("own warm call", start_rows, _START_MODELS),
        (Goal("first", 1.5, 1.2), Goal("second", 1.5, 1.2)),
    ),
    Target(
        "first-mask",
        "bundle load to first mask, less one encode",
        *(NOTHING, start_rows, _START_MODELS),
        (Goal("first_mask_s", 2.0),),
    ),
    Target("import", "import samedge", NOTHING, import_rows, (NOTHING,), (Goal("import_ms", 100.0),)),
)
ROWS: Final = tuple(target.name for target in TARGETS)


def chosen_targets(rows: Sequence[str]) -> tuple[Target, ...]:
    """Return the targets with the given names, in the order of the table; all if none are given."""
    for name in rows:
        if name not in ROWS:
            raise UsageError(f"unknown row {name!r}", where="--rows", cure=f"Choose from: {', '.join(ROWS)}")
    return tuple(target for target in TARGETS if not rows or target.name in rows)


def measure_targets(bench: Bench, rows: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the judged rows (all if none are named) as they are measured; a skipped row gives the reason."""
    targets = chosen_targets(rows)
    by_name = {target.name: target for target in targets}
    for measure in dict.fromkeys(target.measure for target in targets):
        group = [target for target in targets if target.measure is measure]
        for model in dict.fromkeys(model for target in group for model in _models(bench, target)):
            wanted = [target.name for target in group if model in _models(bench, target)]
            for row in _without_failures(measure, bench, model, wanted):
                target = by_name[row.row]
                yield judged(replace(row, what=target.what, baseline=target.baseline), target.goals)


def _without_failures(measure: Measure, bench: Bench, model: str, wanted: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a group; if it fails, the remaining ones are skipped, with the reason."""
    left = list(wanted)
    try:
        for row in measure(bench, model, wanted):
            if row.row in left:  # a row may come more than once, for several backends
                left.remove(row.row)
            yield row
    except UsageError:
        raise
    except SamedgeError as error:
        for name in left:
            yield Row(row=name, model=model, ours="", skipped=str(error))


def _models(bench: Bench, target: Target) -> tuple[str, ...]:
    if target.measure is import_rows:
        return target.models
    return bench.settings.models or target.models
