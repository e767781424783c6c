"""Rounds: every stage of every process in turn, so that other load on the machine affects all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from samedge.benchmarks.bench.options import STAGE_COLUMNS, WHOLE_IMAGE, BenchOptions
from samedge.benchmarks.bench.records import SET_IMAGE, Energy, ModelRow, Stage, StageResult
from samedge.benchmarks.bench.stages.family import grid_families
from samedge.benchmarks.bench.stages.measured_process import MeasuredProcess
from samedge.benchmarks.bench.stages.peer_protocol import OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.measure.device_memory import why_unknown
from samedge.benchmarks.measure.power_meters import Meter
from samedge.benchmarks.measure.rounds import Spread, spread_of
from samedge.errors import BenchmarkError

_EVERYTHING: Final = "everything"
_ORDER: Final = ("preprocess", SET_IMAGE, *STAGE_COLUMNS[1:])
"""Stages in the order of a round."""
_ENERGY_SECONDS: Final = 3.0
_ENERGY_IMAGES: Final = 4


@dataclass(slots=True)
class Running:
    """A contender whose process has loaded its model.

    Attributes:
        stages: The stages to run, in the order of a round.
        runs: Measured runs by stage, in the order of the rounds, over all images.
        first: The first run of each stage, including warm-ups: source of the counts and of the memory.
        failed: Reason why it is no longer run; empty if it works.
    """

    row: ModelRow
    opening: OpenRequest
    process: MeasuredProcess
    opened: OpenedModel
    stages: tuple[str, ...]
    runs: dict[str, list[StageTiming]] = field(default_factory=dict)
    first: dict[str, StageTiming] = field(default_factory=dict)
    failed: str = ""
    energy: Energy | None = None

    @property
    def image_count(self) -> int:
        """Number of images per call."""
        return len(self.opening.images)

    def seconds(self, stage: str) -> list[float]:
        """Return wall seconds per image of each round; "set_image" is the sum of its parts if not run itself."""
        if stage == SET_IMAGE and stage not in self.runs:
            return self.summed(("preprocess", "encode"))
        return [run.wall / self.image_count for run in self.runs.get(stage, ())]

    def summed(self, stages: Sequence[str]) -> list[float]:
        """Return the sum of stages for each round that has all of them."""
        if not stages:
            return []
        return [sum(parts) for parts in zip(*(self.seconds(stage) for stage in stages), strict=False)]


def wanted_stages(opened: OpenedModel, options: BenchOptions) -> tuple[str, ...]:
    """Return the stages to run: those that a requested column needs and the contender supports."""
    wanted: set[str] = {stage for stage in STAGE_COLUMNS if stage in options.columns}
    if options.wants(*WHOLE_IMAGE):
        wanted.update(opened.image_stages)
    if wanted.intersection(("preprocess", "encode")) and not {"preprocess", "encode"} <= opened.stages.keys():
        wanted.add(SET_IMAGE)
    stages = tuple(stage for stage in _ORDER if stage in wanted and stage in opened.stages)
    # Memory is meaningful only after some work, so at least one stage runs.
    return stages or (tuple(opened.stages)[:1] if options.wants("rss", "device-memory", "backend") else ())


def run_rounds(
    running: Sequence[Running], options: BenchOptions, say: Callable[[str], None], done: Callable[[], None]
) -> None:
    """Run each stage of each process, round after round; `done` is called after each stage of all processes."""
    rounds = max(_schedule(one, stage, options)[1] for one in running for stage in one.stages or ("encode",))
    wanted = dict.fromkeys(stage for one in running for stage in one.stages)
    order = sorted(wanted, key=lambda stage: _ORDER.index(stage) if stage in _ORDER else len(_ORDER))
    for turn in range(rounds):
        for stage in order:
            for one in running:
                begin, end = _schedule(one, stage, options)
                if stage in one.stages and turn < end and not one.failed:
                    say(f"Round {turn + 1} of {rounds}: {stage} of {one.row.name}")
                    _run(one, stage, counts=turn >= begin)
            done()


def _schedule(one: Running, stage: str, options: BenchOptions) -> tuple[int, int]:
    """Return the first measured round of a stage, and the end of its rounds."""
    if stage == _EVERYTHING and one.opening.family in grid_families():
        warm_ups = min(1, options.warm_ups)
        return warm_ups, warm_ups + options.everything_rounds
    return options.warm_ups, options.warm_ups + options.rounds


def _run(one: Running, stage: str, *, counts: bool) -> None:
    timing = _timing(one, stage)
    if timing is not None:
        one.first.setdefault(stage, timing)
        if counts:
            one.runs.setdefault(stage, []).append(timing)


def _timing(one: Running, stage: str) -> StageTiming | None:
    """Run a stage; None if it fails, after which the contender is not run again."""
    try:
        return one.process.run(stage)
    except BenchmarkError as error:
        one.failed = str(error)
        return None


def measure_energy(one: Running, meter: Meter) -> None:
    """Process images for some seconds while a meter runs, and record the energy per image."""
    stages = one.opened.image_stages
    if one.failed or not stages or not set(stages) <= set(one.stages):
        return
    image_count, seconds = 0, 0.0
    meter.start()
    try:
        while seconds < _ENERGY_SECONDS or image_count < _ENERGY_IMAGES:
            for stage in stages:
                timing = _timing(one, stage)
                if timing is None:
                    return
                seconds += timing.wall
            image_count += one.image_count
    finally:
        joules = meter.stop()
    if seconds > 0:
        one.energy = Energy(joules / image_count, joules / seconds, image_count, meter.name)


def measured_row(one: Running) -> ModelRow:
    """Return a contender's row with its results so far."""
    row, opened = one.row, one.opened
    stages: dict[Stage, StageResult] = {stage: _result(one, stage) for stage in STAGE_COLUMNS if one.runs.get(stage)}
    whole = one.summed(opened.image_stages)
    empty: dict[str, str] = {stage: why for stage, why in opened.without.items() if stage in STAGE_COLUMNS}
    notes = row.notes
    if SET_IMAGE in one.runs:
        middle = spread_of(one.seconds(SET_IMAGE)).median * 1e3
        notes = (*notes, f"preprocess and encode together: {middle:.1f} ms ({opened.stages[SET_IMAGE]})")
    if one.failed:
        notes = (*notes, f"it failed and was not run again: {one.failed}")
    device_memory = max((run.device for run in one.first.values() if run.device is not None), default=None)
    if device_memory is None and not row.peer_of and not opened.device.lower().startswith("cpu"):
        empty["device-memory"] = why_unknown()
    return replace(
        row,
        skipped=one.failed if one.failed and not stages else row.skipped,
        stages=stages,
        image_stages=opened.image_stages if whole else (),
        images_per_second=spread_of([1 / seconds for seconds in whole]) if whole and min(whole) > 0 else None,
        device_memory=device_memory,
        energy=one.energy,
        backend=opened.backend,
        device=opened.device,
        details=opened.details,
        empty={**row.empty, **empty},
        notes=notes,
    )


def _result(one: Running, stage: Stage) -> StageResult:
    runs, first = one.runs[stage], one.first[stage]
    seconds = one.seconds(stage)
    cpu = [run.cpu / one.image_count for run in runs if run.cpu is not None]
    return StageResult(
        includes=one.opened.stages[stage],
        wall=spread_of(seconds),
        cpu=spread_of(cpu) if len(cpu) == len(runs) else None,
        figures=first.figures,
        peak_bytes=first.peak,
        rounds=tuple(seconds),
    )


def ratios(own: Running, peer: Running) -> dict[str, Spread]:
    """Return the ratio of the peer's time to samedge's, by stage, over the rounds that both have."""
    by_stage = {}
    for stage in (*STAGE_COLUMNS, SET_IMAGE):
        pairs = list(zip(own.seconds(stage), peer.seconds(stage), strict=False))
        if pairs and all(mine > 0 for mine, _ in pairs):
            by_stage[stage] = spread_of([theirs / mine for mine, theirs in pairs])
    return by_stage
