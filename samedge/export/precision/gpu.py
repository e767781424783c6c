"""The precision ladder for GPUs: float16 for all graphs of a bundle, and int8 or fp8 for the encoder's linear layers.

Encoder and decoder descend `HALF_RUNGS` separately until the masks are preserved; then, on request, the encoder's
linear layers become int8 or fp8 if that passes too. Nothing is timed, since a CPU cannot tell the speed of a GPU. The
judge runs float16 with every result rounded (rounding.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import onnx

from samedge.bundle.manifest import GraphRecord, ParityRecord
from samedge.export.family import part_of
from samedge.export.graphs.onnx_file import remove_graph, save_graph
from samedge.export.graphs.plans import GraphPlan
from samedge.export.precision.calibration import Calibration, activation_ranges
from samedge.export.precision.gpu_linears import FORMATS, quantise_linears
from samedge.export.precision.half import HALF_RUNGS, to_half
from samedge.export.precision.int8 import linears
from samedge.export.precision.ladder import LINEAR_RUNGS, Chosen, refusal_of, rung_choice
from samedge.parity.compare import HALF_THRESHOLDS, INT8_THRESHOLDS
from samedge.types import EncoderForm, Precision, Progress

Graphs: TypeAlias = tuple[GraphRecord, ...]
Judge: TypeAlias = Callable[[Graphs, Mapping[str, float]], ParityRecord]
"""Compares a bundle of these graphs with the checkpoint by these thresholds."""

RUNG_NAMES: Final = {
    "fp16": "float16",
    "fp16-norms": "float16, norms and softmax float32",
    "fp16-attention": "float16, norms and attention float32",
    "fp32": "float32",
}
_FORMS: Final[dict[str, EncoderForm]] = {"fp16": "mask", "fp8": "mask"}


def default_form(precision: str) -> EncoderForm:
    """Return the encoder's form for a precision: precisions for GPUs need attention that they fuse."""
    return _FORMS.get(precision, "chunked")


def is_for_gpus(precision: str, form: str, *, calibrated: bool) -> bool:
    """Return True if this module handles a precision; static int8 in the form for CPUs is OpenVINO's."""
    return precision in ("fp16", "fp8") or (precision == "int8" and calibrated and form != "chunked")


def gpu_graphs(
    precision: Precision,
    fp32: Graphs,
    plans: Sequence[GraphPlan],
    folder: Path,
    stem: str,
    calibration: Calibration | None,
    judge: Judge | None,
    report: Progress,
) -> Chosen:
    """Write a bundle's graphs in a precision for GPUs beside the float32 ones, keep one of each, and return which.

    Args:
        precision: "fp16", "int8" or "fp8".
        fp32: The float32 graphs in the folder, the encoder first. Unused ones are removed.
        plans: The plans they were traced from.
        folder: The bundle's folder.
        stem: Beginning of file names.
        calibration: Images for measuring ranges, for int8 and fp8.
        judge: Compares a bundle with the checkpoint. None: the first rung is used unchecked.
        report: Called as the work proceeds.
    """
    ladder = _Ladder(fp32, plans, folder, stem, judge, report)
    chosen = ladder.half()
    if precision in FORMATS and calibration is not None:
        chosen = ladder.quantised(precision, chosen, calibration)
    for graph in fp32:
        if graph not in chosen.graphs:
            remove_graph(graph, folder)
    return chosen


class _Ladder:
    """One descent, and the files it leaves."""

    def __init__(
        self, fp32: Graphs, plans: Sequence[GraphPlan], folder: Path, stem: str, judge: Judge | None, report: Progress
    ) -> None:
        self._fp32, self._plans, self._folder, self._stem = fp32, plans, folder, stem
        self._judge, self._report = judge, report
        self._encoder_rung = HALF_RUNGS[0]

    def half(self) -> Chosen:
        """Return float16 graphs, or float32 ones where float16 fails."""
        best = HALF_RUNGS[0]
        encoder, decoders = self._written([0], best), self._written(range(1, len(self._fp32)), best)
        if self._judge is None:
            return Chosen((*encoder, *decoders), None, ("float16 was not checked",))
        self._report(f"Judging {RUNG_NAMES[best]}", 0.0)
        parity = self._judge((*encoder, *decoders), HALF_THRESHOLDS)
        refusal = refusal_of(parity)
        if refusal is None:
            return Chosen((*encoder, *decoders), parity)
        for graph in (*encoder, *decoders):
            remove_graph(graph, self._folder)
        # Find out which of the two fails: the encoder first, with float32 decoders.
        notes = [f"float16 for all graphs is not used: {refusal}"]
        encoder, self._encoder_rung, last = self._down("encoder", [0], (), self._fp32[1:], notes)
        decoders, _, verdict = self._down("decoder", range(1, len(self._fp32)), encoder, (), notes)
        return Chosen((*encoder, *decoders), verdict or last, tuple(notes))

    def _down(
        self, name: str, places: Sequence[int], before: Graphs, after: Graphs, notes: list[str]
    ) -> tuple[Graphs, str, ParityRecord | None]:
        """Lower some graphs rung by rung; return them, their rung, and the verdict unless it is float32."""
        for step, rung in enumerate(HALF_RUNGS[:-1]):
            self._report(f"Judging the {name} in {RUNG_NAMES[rung]}", 0.0)
            graphs = self._written(places, rung)
            parity = self._judge((*before, *graphs, *after), HALF_THRESHOLDS) if self._judge else None
            refusal = None if parity is None else refusal_of(parity)
            if refusal is None:
                if step:
                    notes.append(f"the {name} is {RUNG_NAMES[rung]}")
                return graphs, rung, parity
            notes.append(f"{RUNG_NAMES[rung]} is not used for the {name}: {refusal}")
            for graph in graphs:
                remove_graph(graph, self._folder)
        return tuple(self._fp32[place] for place in places), HALF_RUNGS[-1], None

    def _written(self, places: Sequence[int], rung: str) -> Graphs:
        """Write some graphs in float16."""
        written = []
        for place in places:
            record, plan = self._fp32[place], self._plans[place]
            model = onnx.load(str(self._folder / record.graph.file))
            to_half(model, rung)
            written.append(
                save_graph(
                    model, plan, self._folder, f"{self._stem}.fp16", precision="fp16", opset=record.opset,
                    variant=f"{plan.variant}, {rung}",
                )
            )  # fmt: skip
            del model
        return tuple(written)

    def quantised(self, precision: Precision, chosen: Chosen, calibration: Calibration) -> Chosen:
        """Return the graphs with int8 or fp8 linear layers in the encoder, or unchanged if that fails."""
        record, plan, rung = self._fp32[0], self._plans[0], self._encoder_rung
        source = str(self._folder / record.graph.file)
        model = onnx.load(source)
        watched = [linear.activation for linear in linears(model.graph)]
        ranges = activation_ranges(model, watched, calibration, self._folder, part_of(self._report, 0.0, 0.4))
        notes = [*chosen.notes]
        for name, keep_narrowing in LINEAR_RUNGS:
            self._report(f"Judging {precision} ({name})", 0.0)
            model = onnx.load(source)
            choose = rung_choice(model.graph, keep_narrowing=keep_narrowing)
            if quantise_linears(model, ranges, FORMATS[precision], choose) == 0:
                notes.append(f"{precision} is not used: the encoder has no large linear layers")
                break
            to_half(model, rung)
            encoder = save_graph(
                model, plan, self._folder, f"{self._stem}.{precision}", precision=precision, opset=record.opset,
                variant=f"{plan.variant}, {precision} static, {name}, {rung}",
            )  # fmt: skip
            del model
            graphs = (encoder, *chosen.graphs[1:])
            parity = self._judge(graphs, INT8_THRESHOLDS) if self._judge else None
            refusal = None if parity is None else refusal_of(parity)
            if refusal is None:
                if chosen.graphs[0] is not record:
                    remove_graph(chosen.graphs[0], self._folder)
                outcome = "was not checked" if parity is None else "is used; only the GPU can tell whether it is faster"
                return Chosen(graphs, parity, (*notes, f"{precision} ({name}) {outcome}"))
            notes.append(f"{precision} ({name}) is not used: {refusal}")
            remove_graph(encoder, self._folder)
        return Chosen(chosen.graphs, chosen.parity, tuple(notes))
