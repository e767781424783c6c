"""The whole measurement: preparation, one process per model, rounds, energy, mask agreement, ratios."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from samedge.benchmarks.bench.contenders import Contender, find_contenders, replace_skipped
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

Show = Callable[[tuple[ModelRow, ...]], None]


@dataclass(slots=True)
class TableBench:
    """One run of ``samedge bench``.

    Attributes:
        options: Options of the measurement.
        artefacts: Source of the files that peers need.
        say: Called with progress.
        show: Called with the current rows whenever they change.
    """

    options: BenchOptions
    artefacts: Artefacts
    say: Callable[[str], None] = lambda _: None
    show: Show = lambda _: None
    _rows: dict[str, ModelRow] = field(default_factory=dict)

    def measure(self) -> tuple[ModelRow, ...]:
        """Measure all models and return the rows.

        Raises:
            UsageError: A model is unknown.
            ImageError: An image cannot be read.
        """
        prompts = prompts_for(self.options.images)
        models: list[tuple[Contender, ...]] = []
        for entries in find_contenders(self.options, prompts, self.artefacts, self.say):
            for entry in entries:
                row = entry.row if isinstance(entry, Contender) else entry
                self._rows[row.name] = row
            models.append(tuple(entry for entry in entries if isinstance(entry, Contender)))
            self._shown()
        groups = models if self.options.apart else [tuple(one for model in models for one in model)]
        for group in groups:
            if group:
                self._measure(group)
        for contender in (one for model in models for one in model if one.prepared is not None):
            self._agree(contender)
        return self._shown()

    def _measure(self, group: Sequence[Contender]) -> None:
        with ExitStack() as stack:
            running = [one for contender in group if (one := self._open(contender, stack)) is not None]
            if not running:
                return

            def update() -> None:
                for one in running:
                    self._rows[one.contender.row.name] = measured_row(one)
                self._shown()

            update()
            run_rounds(running, self.options, self.say, update)
            self._energy(running)
            update()
        self._ratios(running)

    def _open(self, contender: Contender, stack: ExitStack) -> Running | None:
        name = contender.row.name
        self.say(f"OpenRequest {name}")
        try:
            environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(self.options.threads))}
            process = stack.enter_context(MeasuredProcess(contender.command, name, environment=environment))
            capabilities = process.hello()
            if not capabilities.can:
                self._rows[name] = replace_skipped(
                    contender.row, capabilities.reason or "it reports that it cannot run"
                )
                return None
            opened = process.open(contender.opening)
        except BenchmarkError as error:
            self._rows[name] = replace_skipped(contender.row, str(error))
            return None
        if contender.row.peer_of:
            row = msgspec.structs.replace(contender.row, version=capabilities.version)
            contender = Contender(row, contender.command, contender.opening)
        return Running(contender, process, opened, wanted_stages(opened, self.options))

    def _energy(self, running: Sequence[Running]) -> None:
        if not self.options.wants("energy"):
            return
        meter, why = find_meter()
        for one in running:
            row = one.contender.row
            if meter is None:
                row = msgspec.structs.replace(row, empty={**row.empty, "energy": why})
                one.contender = Contender(row, one.contender.command, one.contender.opening, one.contender.prepared)
            else:
                self.say(f"Measuring the energy of {row.name}")
                measure_energy(one, meter)

    def _ratios(self, running: Sequence[Running]) -> None:
        models = {one.contender.row.name: one for one in running if not one.contender.row.peer_of}
        for one in running:
            row = self._rows[one.contender.row.name]
            own = models.get(row.peer_of)
            if own is not None:
                self._rows[row.name] = msgspec.structs.replace(row, ratios=ratios(own, one))

    def _agree(self, contender: Contender) -> None:
        """Compare masks with torch, if the weights are trained and the checkpoint is available."""
        row, prepared = self._rows[contender.row.name], contender.prepared
        if prepared is None or row.skipped or not self.options.wants("iou"):
            return
        if prepared.seeded:
            row = msgspec.structs.replace(row, empty={**row.empty, "iou": RANDOM_MASKS})
        elif not prepared.checkpoint:
            recorded = prepared.recorded
            why = {} if recorded else {"iou": "the checkpoint is not available, and the export made no comparison"}
            row = msgspec.structs.replace(row, mask_agreement=recorded, empty={**row.empty, **why})
        else:
            self.say(f"Comparing the masks of {row.name} with torch")
            row = self._compared(row, contender)
        self._rows[row.name] = row
        self._shown()

    def _compared(self, row: ModelRow, contender: Contender) -> ModelRow:
        opening = contender.opening
        device = row.device or "cpu"
        bench = bench_of(model_family(opening.artefact))
        if not bench.agreement:
            return msgspec.structs.replace(row, empty={**row.empty, "iou": "nothing compares this family with torch"})
        arguments: dict[str, Any] = {
            "source": opening.source, "artefact": opening.artefact, "backend": row.backend,
            "threads": opening.threads, "device": device,
        }  # fmt: skip
        try:
            result = call_in_child(bench.agreement, arguments)
        except SamedgeError as error:
            return msgspec.structs.replace(row, empty={**row.empty, "iou": str(error)})
        judged = f"probe set, {bench.judged}, {row.backend} {device}, in this run"
        agreement = MaskAgreement(result["worst"], result.get("mean"), judged)
        verdict = row.verdict if result["passed"] else "failed"
        return msgspec.structs.replace(row, mask_agreement=agreement, verdict=verdict)

    def _shown(self) -> tuple[ModelRow, ...]:
        rows = tuple(with_refusals(self._rows))
        self.show(rows)
        return rows


def with_refusals(rows: dict[str, ModelRow]) -> Iterator[ModelRow]:
    """Yield the rows; peers get the verdict of their model, and lose ratios to a model whose parity failed."""
    for row in rows.values():
        own = rows.get(row.peer_of)
        if own is None:
            yield row
            continue
        judged = msgspec.structs.replace(row, own_verdict=own.verdict)
        if own.verdict == "failed" and row.ratios:
            judged = msgspec.structs.replace(judged, ratios={}, empty={**row.empty, "ratio": FAILED_PARITY})
        yield judged
