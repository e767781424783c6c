"""The precision ladder on the CPU: the first rung that preserves the masks and is faster here is used.

The bundle's notes name every rung that failed. Below the last rung stands float32.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx

from samedge.bundle.manifest import GraphRecord, ParityRecord
from samedge.engines.registry import availability, backend_names, open_engine
from samedge.export.family import part_of
from samedge.export.graphs.onnx_file import remove_graph, save_graph
from samedge.export.graphs.plans import GraphPlan
from samedge.export.precision.calibration import Calibration, activation_ranges
from samedge.export.precision.int8 import Linear, linears, quantise_dynamic, quantise_static
from samedge.types import Array, Progress

ROUNDS: Final = 3

LINEAR_RUNGS: Final = (("every linear layer", False), ("all linear layers but those that narrow", True))
"""Name of each rung; True keeps layers with fewer outputs than inputs in float32."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A way to quantise a graph.

    Attributes:
        name: The layers in int8.
        quantise: Changes the graph, and returns the number of changed layers.
    """

    name: str
    quantise: Callable[[onnx.ModelProto], int]


@dataclass(frozen=True, slots=True)
class WrittenGraph:
    """A float32 graph on disk, with the data for writing it in another precision.

    Attributes:
        record: Its record.
        plan: The plan it was traced from.
        folder: The bundle's folder.
        stem: Beginning of file names.
    """

    record: GraphRecord
    plan: GraphPlan
    folder: Path
    stem: str

    @property
    def path(self) -> Path:
        """The ONNX file."""
        return self.folder / self.record.graph.file

    def remove(self) -> None:
        """Delete the files."""
        remove_graph(self.record, self.folder)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The graphs that are used.

    Attributes:
        graphs: Their records.
        parity: The verdict of the bundle with them; None if they are float32, or were not judged.
        notes: Why rungs were rejected, and the gain of the one that is used.
    """

    graphs: tuple[GraphRecord, ...]
    parity: ParityRecord | None
    notes: tuple[str, ...] = ()


def rung_choice(graph: onnx.GraphProto, *, keep_narrowing: bool) -> Callable[[Linear], bool]:
    """Return a predicate of the layers to quantise: all, or those with no fewer outputs than inputs."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if len(tensor.dims) == 2}

    def choose(linear: Linear) -> bool:
        rows, columns = shapes[linear.weight]
        inside, outside = (columns, rows) if linear.transposed else (rows, columns)
        return not (keep_narrowing and inside > outside)

    return choose


def int8_backend(calibration: Calibration | None) -> str:
    """Return the backend that judges and times int8: onnxruntime for dynamic graphs, OpenVINO for static ones."""
    if calibration is not None and "openvino" in backend_names() and availability("openvino").ok:
        return "openvino"
    return "onnxruntime"


def int8_encoder(
    fp32: WrittenGraph,
    calibration: Calibration | None,
    judge: Callable[[GraphRecord, str], ParityRecord] | None,
    report: Progress,
) -> Chosen:
    """Write the encoder in int8 beside the float32 one, keep one of them, and return which and why.

    Rungs: every linear layer; all but those that narrow (the second of each MLP, whose inputs have outliers); none.

    Args:
        fp32: The float32 encoder. Removed if int8 is used.
        calibration: Images for static ranges; None for ranges measured at run time.
        judge: Compares the bundle with this encoder, on this backend, with the checkpoint. None: the first rung is used
            unchecked, whatever its speed.
        report: Called as the work proceeds.
    """
    ranges: dict[str, float] = {}
    if calibration is not None:
        model = onnx.load(str(fp32.path))
        watched = [linear.activation for linear in linears(model.graph)]
        ranges = activation_ranges(model, watched, calibration, fp32.folder, part_of(report, 0.0, 0.4))
        del model
    kind = "dynamic" if calibration is None else "static"

    def quantise(model: onnx.ModelProto, *, keep_narrowing: bool) -> int:
        choose = rung_choice(model.graph, keep_narrowing=keep_narrowing)
        return quantise_dynamic(model, choose) if calibration is None else quantise_static(model, ranges, choose)

    rungs = [Rung(name, partial(quantise, keep_narrowing=keep_narrowing)) for name, keep_narrowing in LINEAR_RUNGS]
    return climb(
        fp32, rungs, f"int8 {kind}", int8_backend(calibration), judge, report,
        nothing="the encoder has no large linear layers",
    )  # fmt: skip


def climb(
    fp32: WrittenGraph,
    rungs: Sequence[Rung],
    kind: str,
    backend: str,
    judge: Callable[[GraphRecord, str], ParityRecord] | None,
    report: Progress,
    *,
    nothing: str,
    sizes: Mapping[str, int] | None = None,
    also: Sequence[str] = (),
) -> Chosen:
    """Write a graph in int8 beside the float32 one on the first rung that passes, and return which is used and why.

    Args:
        fp32: As for `int8_encoder`.
        rungs: The most thorough first.
        kind: Kind of int8, for the record.
        backend: Judges and times.
        judge: As for `int8_encoder`.
        report: As for `int8_encoder`; the last 0.6 of the work.
        nothing: Reason if a rung changes no layer.
        sizes: Sizes of free axes by name for timing; 1 for the others.
        also: Further backends to time on, for the notes.
    """
    notes: list[str] = []
    for step, rung in enumerate(rungs):
        report(f"Trying int8 ({rung.name})", 0.4 + 0.6 * step / len(rungs))
        model = onnx.load(str(fp32.path))
        if rung.quantise(model) == 0:
            return Chosen((fp32.record,), None, (f"int8 is not used: {nothing}",))
        graph = save_graph(
            model, fp32.plan, fp32.folder, f"{fp32.stem}.int8", precision="int8", opset=fp32.record.opset,
            variant=f"{fp32.plan.variant}, {kind}, {rung.name}",
        )  # fmt: skip
        del model
        if judge is None:
            fp32.remove()
            return Chosen((graph,), None, (*notes, f"int8 ({rung.name}) was not checked"))
        parity = judge(graph, backend)
        refusal = refusal_of(parity)
        if refusal is None:
            files = fp32.path, fp32.folder / graph.graph.file
            ratio = speed_ratio(*files, backend, sizes or {})
            if ratio > 1:
                others = [
                    f"int8 ran {speed_ratio(*files, name, sizes or {}):.2f} times as fast as float32 on {name} there"
                    for name in also
                ]
                fp32.remove()
                gain = f"int8 ({rung.name}) ran {ratio:.2f} times as fast as float32 on {backend} where it was exported"
                return Chosen((graph,), parity, (*notes, gain, *others))
            refusal = f"it ran only {ratio:.2f} times as fast as float32 on {backend} here"
        notes.append(f"int8 ({rung.name}) is not used: {refusal}")
        remove_graph(graph, fp32.folder)
    return Chosen((fp32.record,), None, tuple(notes))


def refusal_of(parity: ParityRecord) -> str | None:
    """Return why a rung is rejected; None if it passed."""
    if parity.verdict == "passed":
        return None
    if parity.objects is not None:
        return parity.objects.sentence
    return (
        f"masks agree with float32 by {parity.mask_iou_mean:.3f} on average and {parity.mask_iou_decile:.3f} in the "
        f"worst tenth, and predicted IoUs differ by up to {parity.iou_error_max:.3f}"
    )


def speed_ratio(
    baseline: Path, candidate: Path, backend: str, sizes: Mapping[str, int] = MappingProxyType({})
) -> float:
    """Return the speed of an ONNX file relative to a baseline, by the median of three rounds in turn.

    Free axes have the size of their name in `sizes`, or 1.
    """
    seconds: dict[Path, list[float]] = {baseline: [], candidate: []}
    with (
        open_engine(baseline, backend=backend, device="cpu") as a,
        open_engine(candidate, backend=backend, device="cpu") as b,
    ):
        for turn in range(ROUNDS + 1):
            for path, engine in ((baseline, a), (candidate, b)):
                random = np.random.default_rng(turn)
                feeds: dict[str, Array] = {}
                for name, spec in engine.inputs.items():
                    shape = [axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in spec.shape]
                    feeds[name] = random.normal(size=shape).astype(spec.dtype)
                start = perf_counter()
                engine.run(feeds)
                if turn:  # the first is the warm-up
                    seconds[path].append(perf_counter() - start)
    return statistics.median(seconds[baseline]) / statistics.median(seconds[candidate])
