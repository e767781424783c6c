"""Segment-everything rows: samedge against Meta's ``SamAutomaticMaskGenerator`` in torch, with the same weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from samedge.benchmarks.measure.agreement import Agreement, agreement
from samedge.benchmarks.measure.artefacts import IMAGES
from samedge.benchmarks.measure.rounds import Contender
from samedge.benchmarks.measure.thresholds import DEMO_THRESHOLDS, everything_figures, seeded_thresholds
from samedge.benchmarks.targets.context import Bench
from samedge.benchmarks.targets.results import Row
from samedge.benchmarks.targets.variants import Variant
from samedge.models.checkpoints.weights import SEEDED
from samedge.runtime.everything.found import FoundMasks
from samedge.types import BoolArray

DEMO: Final = "sam_demo"
"""Small enough for the whole grid of Meta's defaults."""
BASELINE: Final = "Meta's generator in torch"
MODES: Final = {"everything-exact": "exact", "everything-fast": "fast"}

_SAME: Final = 0.99
_ALIKE: Final = 0.9


def everything_rows(bench: Bench, model: str, wanted: Sequence[str]) -> Iterator[Row]:
    """Yield the wanted rows for a model, all timed in one process, in turn with one baseline."""
    rows = {name: mode for name, mode in MODES.items() if name in wanted}
    if not rows:
        return
    settings = bench.settings
    bundle = bench.artefacts.bundle(model, form=settings.form)
    options: dict[str, Any] = {"points_per_side": 32, **DEMO_THRESHOLDS}
    if model != DEMO:
        options |= {"points_per_side": settings.everything_points}
    if model.startswith(SEEDED):
        bench.say("Choosing thresholds for random weights")
        options |= seeded_thresholds(str(bundle), str(IMAGES[0]), settings.everything_points, settings.threads)

    def theirs(image: Path) -> Variant:
        arguments = {"source": model, "image": str(image), "options": options, "threads": settings.threads}
        return Variant(BASELINE, "meta_everything", arguments)

    def ours(mode: str, image: Path) -> Variant:
        arguments = {
            "bundle": str(bundle),
            "image": str(image),
            "options": options,
            "mode": mode,
            "backend": "onnxruntime",
            "threads": settings.threads,
        }
        return Variant(f"{mode} mode in onnxruntime", "everything", arguments)

    first = IMAGES[0]
    memory = {mode: bench.memory(ours(mode, first)) for mode in rows.values()}
    baseline_memory = bench.memory(theirs(first))
    contenders = [Contender(BASELINE, theirs(first).open())]
    contenders += [Contender(mode, ours(mode, first).open()) for mode in rows.values()]
    timings = bench.interleave(contenders)
    contenders.clear()
    bench.say("Comparing masks")
    results = {mode: [ours(mode, image).open()() for image in IMAGES] for mode in {"exact", *rows.values()}}
    for name, mode in rows.items():
        if mode == "exact":
            generated = ([record["segmentation"] for record in theirs(image).open()()] for image in IMAGES)
            agreed = _agreement(results[mode], generated, _SAME)
        else:
            agreed = _agreement(results[mode], [list(exact.iter_masks()) for exact in results["exact"]], _ALIKE)
        statistics = results[mode][0].statistics
        yield Row(
            row=name,
            model=model,
            ours=f"{mode} mode in onnxruntime",
            baseline_timing=timings[BASELINE],
            timing=timings[mode],
            baseline_memory=baseline_memory,
            memory=memory[mode],
            mask_iou=agreed.mean_iou if agreed.wanted else None,
            figures={
                # Where there are no masks, nothing was recalled and nothing missed.
                **({"recall": agreed.recall, "precision": agreed.precision} if agreed.wanted else {}),
                "worst_mask_iou": agreed.worst,
                "masks": agreed.found,
                **everything_figures(results[mode][0]),
            },
            notes=(
                f"{statistics.decoder_prompts} of {statistics.points} points asked in {statistics.decoder_calls} calls",
                f"recall {agreed.recall:.3f} and precision {agreed.precision:.3f} of {agreed.wanted} masks at IoU "
                + (f"{_SAME} of Meta's generator" if mode == "exact" else f"{_ALIKE} of exact mode"),
                ", ".join(f"{option} {value}" for option, value in options.items()),
            ),
        )


def _agreement(found: Sequence[FoundMasks], wanted: Iterable[Sequence[BoolArray]], iou: float) -> Agreement:
    """Return the agreement over images."""
    pairs = zip(found, wanted, strict=True)
    return sum((agreement(list(ours.iter_masks()), theirs, iou) for ours, theirs in pairs), Agreement())
