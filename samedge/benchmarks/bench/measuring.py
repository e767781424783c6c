"""The whole measurement: prepare, open each model in its process, rounds, energy, agreement of masks, ratios."""

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
from samedge.benchmarks.bench.rounds import (
    Running,
    measure_energy,
    measured_row,
    ratios,
    run_rounds,
    wanted_stages,
)
from samedge.benchmarks.bench.stages.family import bench_of
from samedge.benchmarks.bench.stages.measured_process import MeasuredProcess
from samedge.benchmarks.measure.artefacts import Artefacts
from samedge.benchmarks.measure.child import call_in_child
from samedge.benchmarks.measure.power_meters import find_meter
from samedge.bundle.archive import model_family
from samedge.errors import BenchmarkError, SamedgeError

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
"""What numpy's, torch's and OpenCV's own threads follow, beside those of the graphs."""
RANDOM_MASKS: Final = "the weights are random: what their masks say means nothing"
FAILED_PARITY: Final = "parity failed: a speed-up of wrong masks is none"

Show = Callable[[tuple[ModelRow, ...]], None]


@dataclass(slots=True)
class TableBench:
    """One run of ``samedge bench``.

    Attributes:
        options: How to measure.
        artefacts: Makes what peers need.
        say: Called with what is being done.
        show: Called with the rows as they are, whenever there is more in them.
    """

    options: BenchOptions
    artefacts: Artefacts
    say: Callable[[str], None] = lambda _: None
    show: Show = lambda _: None
    _rows: dict[str, ModelRow] = field(default_factory=dict)

    def measure(self) -> tuple[ModelRow, ...]:
        """Return the rows.

        Raises:
            UsageError: There is no such model.
            ImageError: A picture cannot be read.
        """
        prompts = prompts_for(self.options.images)
        models: list[tuple[Contender, ...]] = []
        for entries in find_contenders(self.options, prompts, self.artefacts, self.say):
            found = []
            for entry in entries:
                row = entry.row if isinstance(entry, Contender) else entry
                self._rows[row.name] = row
                if isinstance(entry, Contender):
                    found.append(entry)
            models.append(tuple(found))
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
        self.say(f"Opening {name}")
        try:
            environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(self.options.threads))}
            process = stack.enter_context(MeasuredProcess(contender.command, name, environment=environment))
            hello = process.hello()
            if not hello.can:
                self._rows[name] = replace_skipped(contender.row, hello.reason or "it says that it cannot work here")
                return None
            opened = process.open(contender.opening)
        except BenchmarkError as error:
            self._rows[name] = replace_skipped(contender.row, str(error))
            return None
        if contender.row.peer_of:
            row = msgspec.structs.replace(contender.row, version=hello.version)
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
                self.say(f"Energy of {row.name}")
                measure_energy(one, meter)

    def _ratios(self, running: Sequence[Running]) -> None:
        models = {one.contender.row.name: one for one in running if not one.contender.row.peer_of}
        for one in running:
            row = self._rows[one.contender.row.name]
            own = models.get(row.peer_of)
            if own is not None:
                self._rows[row.name] = msgspec.structs.replace(row, ratios=ratios(own, one))

    def _agree(self, contender: Contender) -> None:
        """Compare masks with torch, where the weights are trained and the checkpoint is there."""
        row, prepared = self._rows[contender.row.name], contender.prepared
        if prepared is None or row.skipped or not self.options.wants("iou"):
            return
        if prepared.seeded:
            row = msgspec.structs.replace(row, empty={**row.empty, "iou": RANDOM_MASKS})
        elif not prepared.checkpoint:
            found = prepared.recorded
            why = {} if found else {"iou": "the checkpoint is not here, and the export did not compare"}
            row = msgspec.structs.replace(row, mask_agreement=found, empty={**row.empty, **why})
        else:
            self.say(f"Masks of {row.name} against torch")
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
            said = call_in_child(bench.agreement, arguments)
        except SamedgeError as error:
            return msgspec.structs.replace(row, empty={**row.empty, "iou": str(error)})
        masks = bench.judged
        agreement = MaskAgreement(said["worst"], said.get("mean"), f"probe set, {masks}, {row.backend} {device}, now")
        verdict = row.verdict if said["passed"] else "failed"
        return msgspec.structs.replace(row, mask_agreement=agreement, verdict=verdict)

    def _shown(self) -> tuple[ModelRow, ...]:
        rows = tuple(with_refusals(self._rows))
        self.show(rows)
        return rows


def with_refusals(rows: dict[str, ModelRow]) -> Iterator[ModelRow]:
    """Give the rows: peers with the verdict of their model, and without ratios to one of which parity failed."""
    for row in rows.values():
        own = rows.get(row.peer_of)
        if own is None:
            yield row
            continue
        told = msgspec.structs.replace(row, own_verdict=own.verdict)
        if own.verdict == "failed" and row.ratios:
            told = msgspec.structs.replace(told, ratios={}, empty={**row.empty, "ratio": FAILED_PARITY})
        yield told
