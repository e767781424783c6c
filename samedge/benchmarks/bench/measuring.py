"""The whole measurement: preparation, one process per model, rounds, energy, mask agreement, ratios.

A round runs every stage of every process in turn, so that other load on the machine affects all of them alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace

from samedge.benchmarks.bench.contenders import Contender, find_contenders
from samedge.benchmarks.bench.options import STAGE_COLUMNS, WHOLE_IMAGE, BenchOptions, prompts_for
from samedge.benchmarks.bench.records import SET_IMAGE, Energy, MaskAgreement, ModelRow, Stage, StageResult
from samedge.benchmarks.bench.stages.family import bench_of, grid_families
from samedge.benchmarks.bench.stages.measured_process import MeasuredProcess
from samedge.benchmarks.bench.stages.peer_protocol import OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.measure.artefacts import Artefacts
from samedge.benchmarks.measure.child import call_in_child
from samedge.benchmarks.measure.device_memory import why_unknown
from samedge.benchmarks.measure.power_meters import Meter, find_meter
from samedge.benchmarks.measure.rounds import Spread, spread_of
from samedge.bundle.archive import model_family
from samedge.errors import BenchmarkError, SamedgeError

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
"""Variables that limit the threads of numpy, torch and OpenCV, in addition to those of the graphs."""
RANDOM_MASKS: Final = "the weights are random, so their masks mean nothing"
FAILED_PARITY: Final = "parity failed: a speed-up with wrong masks does not count"
_EVERYTHING: Final = "everything"
_ORDER: Final = ("preprocess", SET_IMAGE, *STAGE_COLUMNS[1:])
"""Stages in the order of a round."""
_ENERGY_SECONDS: Final = 3.0
_ENERGY_IMAGES: Final = 4


@dataclass(slots=True)
class TableBench:
    """One run of ``samedge bench``; `show` is called with the current rows whenever they change."""

    options: BenchOptions
    artefacts: Artefacts
    say: Callable[[str], None] = lambda _: None
    show: Callable[[tuple[ModelRow, ...]], None] = lambda _: None
    _rows: dict[str, ModelRow] = field(default_factory=dict)

    def measure(self) -> tuple[ModelRow, ...]:
        """Measure all models and return the rows."""
        prompts = prompts_for(self.options.images)
        models: list[list[Contender]] = []
        for entries in find_contenders(self.options, prompts, self.artefacts, self.say):
            rows = [entry.row if isinstance(entry, Contender) else entry for entry in entries]
            self._rows |= {row.name: row for row in rows}
            models.append([entry for entry in entries if isinstance(entry, Contender)])
            self._shown()
        contenders = [one for model in models for one in model]
        for group in models if self.options.apart else [contenders]:
            self._measure(group)
        for contender in contenders:
            self._agree(contender)
        return self._shown()

    def _measure(self, group: Sequence[Contender]) -> None:
        with ExitStack() as stack:
            running = [one for contender in group if (one := self._open(contender, stack)) is not None]
            if not running:
                return

            def update() -> None:
                self._rows |= {one.row.name: measured_row(one) for one in running}
                self._shown()

            update()
            run_rounds(running, self.options, self.say, update)
            if self.options.wants("energy"):
                self._energy(running)
            update()
        models = {one.row.name: one for one in running if not one.row.peer_of}
        for one in running:
            own = models.get(one.row.peer_of)
            if own is not None:
                self._rows[one.row.name] = replace(self._rows[one.row.name], ratios=ratios(own, one))

    def _open(self, contender: Contender, stack: ExitStack) -> Running | None:
        """Start the process and load the model; None, and a skipped row, if that fails."""
        row = contender.row
        self.say(f"Opening {row.name}")
        try:
            environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(self.options.threads))}
            process = stack.enter_context(MeasuredProcess(contender.command, row.name, environment=environment))
            capabilities = process.hello()
            why = "" if capabilities.can else capabilities.reason or "it reports that it cannot run"
            opened = None if why else process.open(contender.opening)
        except BenchmarkError as error:
            why, opened = str(error), None
        if opened is None:
            self._rows[row.name] = replace(row, skipped=why)
            return None
        if row.peer_of:
            row = replace(row, version=capabilities.version)
        return Running(row, contender.opening, process, opened, wanted_stages(opened, self.options))

    def _energy(self, running: Sequence[Running]) -> None:
        meter, why = find_meter()
        for one in running:
            if meter is None:
                one.row = _without(one.row, "energy", why)
            else:
                self.say(f"Measuring the energy of {one.row.name}")
                measure_energy(one, meter)

    def _agree(self, contender: Contender) -> None:
        """Compare masks with torch, if the weights are trained and the checkpoint is available."""
        row, prepared = self._rows[contender.row.name], contender.prepared
        if prepared is None or row.skipped or not self.options.wants("iou"):
            return
        if prepared.seeded:
            row = _without(row, "iou", RANDOM_MASKS)
        elif prepared.checkpoint:
            self.say(f"Comparing the masks of {row.name} with torch")
            row = _compared(row, contender)
        elif prepared.recorded:
            row = replace(row, mask_agreement=prepared.recorded)
        else:
            row = _without(row, "iou", "the checkpoint is not available, and the export made no comparison")
        self._rows[row.name] = row
        self._shown()

    def _shown(self) -> tuple[ModelRow, ...]:
        rows = tuple(with_refusals(self._rows))
        self.show(rows)
        return rows


def _without(row: ModelRow, column: str, why: str) -> ModelRow:
    """Return a row with the reason for an empty column."""
    return replace(row, empty={**row.empty, column: why})


def _compared(row: ModelRow, contender: Contender) -> ModelRow:
    opening, device = contender.opening, row.device or "cpu"
    bench = bench_of(model_family(opening.artefact))
    if not bench.agreement:
        return _without(row, "iou", "nothing compares this family with torch")
    arguments: dict[str, Any] = {
        "source": opening.source,
        "artefact": opening.artefact,
        "backend": row.backend,
        "threads": opening.threads,
        "device": device,
    }
    try:
        result = call_in_child(bench.agreement, arguments)
    except SamedgeError as error:
        return _without(row, "iou", str(error))
    judged = f"probe set, {bench.judged}, {row.backend} {device}, in this run"
    agreement = MaskAgreement(result["worst"], result.get("mean"), judged)
    return replace(row, mask_agreement=agreement, verdict=row.verdict if result["passed"] else "failed")


def with_refusals(rows: dict[str, ModelRow]) -> Iterator[ModelRow]:
    """Yield the rows; peers get the verdict of their model, and lose ratios to a model whose parity failed."""
    for row in rows.values():
        own = rows.get(row.peer_of)
        if own is None:
            yield row
            continue
        judged = replace(row, own_verdict=own.verdict)
        if own.verdict == "failed" and row.ratios:
            judged = _without(replace(judged, ratios={}), "ratio", FAILED_PARITY)
        yield judged


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
