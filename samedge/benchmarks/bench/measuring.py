"""The whole measurement: preparation, one process per model, rounds, energy, mask agreement, ratios."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace

from samedge.benchmarks.bench.contenders import Contender, find_contenders
from samedge.benchmarks.bench.options import BenchOptions, prompts_for
from samedge.benchmarks.bench.records import MaskAgreement, ModelRow
from samedge.benchmarks.bench.rounds import Running, measure_energy, measured_row, ratios, run_rounds, wanted_stages
from samedge.benchmarks.bench.stages.family import bench_of
from samedge.benchmarks.bench.stages.measured_process import MeasuredProcess
from samedge.benchmarks.measure.artefacts import Artefacts
from samedge.benchmarks.measure.child import call_in_child
from samedge.benchmarks.measure.power_meters import find_meter
from samedge.bundle.archive import model_family
from samedge.errors import BenchmarkError, SamedgeError

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
"""Variables that limit the threads of numpy, torch and OpenCV, in addition to those of the graphs."""
RANDOM_MASKS: Final = "the weights are random, so their masks mean nothing"
FAILED_PARITY: Final = "parity failed: a speed-up with wrong masks does not count"


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
