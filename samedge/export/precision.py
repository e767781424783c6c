"""The precision ladder: the first rung whose masks are the checkpoint's, and that is faster here, is used.

A rung that fails is said in the bundle's notes, never used in silence. Below the last rung stands float32.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
import onnx

from samedge.engines.registry import availability, backend_names, open_engine
from samedge.export.calibration import activation_ranges
from samedge.export.graphs import GraphPlan
from samedge.export.int8 import Linear, linears, quantise_dynamic, quantise_static
from samedge.export.onnx_file import remove_graph, save_graph
from samedge.runtime.manifest import GraphRecord, ParityRecord
from samedge.types import Array

ROUNDS: Final = 3

LINEAR_RUNGS: Final = (("every linear layer", False), ("all linear layers but those that narrow", True))
"""What is int8 on each rung, and whether layers with fewer outputs than inputs stay float32."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What static ranges are measured on.

    Attributes:
        feeds: Yields the encoder's feeds, one an image; called several times.
        images: How many.
    """

    feeds: Callable[[], Iterable[dict[str, Array]]]
    images: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """The encoder that is used.

    Attributes:
        graph: Its record.
        parity: The verdict of the whole bundle with it; None where float32 is left, which is still to be compared.
        notes: Why higher rungs are not used, or what the used one has won.
    """

    graph: GraphRecord
    parity: ParityRecord | None
    notes: tuple[str, ...]


def rung_choice(graph: onnx.GraphProto, *, keep_narrowing: bool) -> Callable[[Linear], bool]:
    """Returns which linear layers of a graph a rung changes.

    Args:
        graph: With its weights.
        keep_narrowing: Layers with fewer outputs than inputs stay as they are.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if len(tensor.dims) == 2}

    def choose(linear: Linear) -> bool:
        rows, columns = shapes[linear.weight]
        inside, outside = (columns, rows) if linear.transposed else (rows, columns)
        return not (keep_narrowing and inside > outside)

    return choose


def int8_backend(calibration: Calibration | None) -> str:
    """Returns the backend that judges and times int8: dynamic graphs are onnxruntime's, static ones OpenVINO's."""
    if calibration is not None and "openvino" in backend_names() and availability("openvino").ok:
        return "openvino"
    return "onnxruntime"


def int8_encoder(
    fp32: GraphRecord,
    plan: GraphPlan,
    folder: Path,
    stem: str,
    calibration: Calibration | None,
    judge: Callable[[GraphRecord, str], ParityRecord] | None,
    report: Callable[[str, float], None],
) -> Chosen:
    """Writes the encoder in int8 beside the float32 one, keeps one of them, and returns which and why.

    Rungs: every linear layer; all but those that narrow (the second of each MLP, whose inputs have outliers); none.

    Args:
        fp32: The float32 encoder in the folder. Removed if int8 is used.
        plan: What it was traced from.
        folder: The bundle's folder.
        stem: Beginning of file names.
        calibration: Images for static ranges; None for ranges that are measured as the graph runs.
        judge: Compares the bundle with this encoder, on this backend, with the checkpoint. None: the first rung is used
            unchecked, and whatever its speed.
        report: Called with a sentence and the share that is done.
    """
    backend = int8_backend(calibration)
    ranges: dict[str, float] = {}
    if calibration is not None:
        model = onnx.load(str(folder / fp32.graph.file))
        watched = [linear.activation for linear in linears(model.graph)]
        report(f"Measuring ranges on {calibration.images} images", 0.0)
        ranges = activation_ranges(
            model, watched, calibration.feeds, folder,
            progress=lambda share: report(f"Measuring ranges on {calibration.images} images", 0.4 * share),
        )  # fmt: skip
        del model
    kind = "dynamic" if calibration is None else "static"
    notes: list[str] = []
    for step, (name, keep_narrowing) in enumerate(LINEAR_RUNGS):
        report(f"Trying int8 ({name})", 0.4 + 0.3 * step)
        model = onnx.load(str(folder / fp32.graph.file))
        choose = rung_choice(model.graph, keep_narrowing=keep_narrowing)
        changed = quantise_dynamic(model, choose) if calibration is None else quantise_static(model, ranges, choose)
        if changed == 0:
            return Chosen(fp32, None, ("int8 is not used: the encoder has no linear layers that are large enough",))
        graph = save_graph(
            model, plan, folder, f"{stem}.int8", precision="int8", opset=fp32.opset,
            variant=f"{plan.variant}, int8 {kind}, {name}",
        )  # fmt: skip
        del model
        if judge is None:
            remove_graph(fp32, folder)
            return Chosen(graph, None, (*notes, f"int8 ({name}) was not checked"))
        parity = judge(graph, backend)
        refusal = refusal_of(parity)
        if refusal is None:
            ratio = speed_ratio(folder / fp32.graph.file, folder / graph.graph.file, backend)
            if ratio > 1:
                remove_graph(fp32, folder)
                won = f"int8 ({name}) ran {ratio:.2f} times as fast as float32 on {backend} where it was exported"
                return Chosen(graph, parity, (*notes, won))
            refusal = f"it ran only {ratio:.2f} times as fast as float32 on {backend} here"
        notes.append(f"int8 ({name}) is not used: {refusal}")
        remove_graph(graph, folder)
    return Chosen(fp32, None, tuple(notes))


def refusal_of(parity: ParityRecord) -> str | None:
    """Returns why a rung is not used, or None where it passed."""
    if parity.verdict == "passed":
        return None
    return (
        f"masks agree with float32 by {parity.mask_iou_mean:.3f} on average and {parity.mask_iou_decile:.3f} in the "
        f"worst tenth, and predicted IoUs differ by up to {parity.iou_error_max:.3f}"
    )


def speed_ratio(baseline: Path, candidate: Path, backend: str) -> float:
    """Returns how many times as fast as the baseline a graph runs here: both open, in turn, the median of three rounds.

    Args:
        baseline: An ONNX file.
        candidate: Another with the same inputs.
        backend: Which runs both.
    """
    seconds: dict[Path, list[float]] = {baseline: [], candidate: []}
    with (
        open_engine(baseline, backend=backend, device="cpu") as a,
        open_engine(candidate, backend=backend, device="cpu") as b,
    ):
        for turn in range(ROUNDS + 1):
            for path, engine in ((baseline, a), (candidate, b)):
                feeds: dict[str, Array] = {
                    name: np.random.default_rng(turn).normal(size=[s if isinstance(s, int) else 1 for s in spec.shape])
                    .astype(spec.dtype)
                    for name, spec in engine.inputs.items()
                }  # fmt: skip
                start = perf_counter()
                engine.run(feeds)
                if turn:  # the first is the warm-up
                    seconds[path].append(perf_counter() - start)
    return statistics.median(seconds[baseline]) / statistics.median(seconds[candidate])
