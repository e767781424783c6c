"""Comparison of two runs of one YOLO: raw outputs on the probe images, before suppression.

Suppression is the same host code for both, and would turn a rounding error near a threshold into a missing box. So its
inputs are judged: boxes, scores, and the masks of the best-scoring anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from samedge.bundle.manifest import ParityRecord, ParityRow
from samedge.engines.protocol import Engine
from samedge.parity.compare import judged
from samedge.parity.probes import probe_set
from samedge.runtime.image.letterbox import MAX_STRIDE
from samedge.runtime.yolo.graph import INPUT
from samedge.runtime.yolo.input_limits import InputLimits
from samedge.types import FloatArray

Reference: TypeAlias = Callable[[FloatArray], Sequence[FloatArray]]
"""Maps an input to boxes with scores and coefficients and, for a segmenter, prototypes."""


@dataclass(frozen=True, slots=True)
class YoloThresholds:
    """Thresholds of a verdict.

    Attributes:
        box_error: Largest error of a box, px of the input.
        score_error: Largest error of a class score.
        mask_iou: Smallest IoU of masks.
        shown_only: Judge only the boxes of the best anchors and the mean IoU of their masks; otherwise the boxes of all
            anchors and the worst mask.
    """

    box_error: float
    score_error: float
    mask_iou: float
    shown_only: bool = False

    def record(self) -> dict[str, float]:
        """Return the thresholds in the manifest's form."""
        overlap = "mask_iou_mean" if self.shown_only else "mask_iou_min"
        return {"box_error_max": self.box_error, "score_error_max": self.score_error, overlap: self.mask_iou}


FP32_YOLO: Final = YoloThresholds(0.5, 1e-3, 0.99)
HALF_YOLO: Final = YoloThresholds(1.0, 0.01, 0.97, shown_only=True)
"""With every float16 result rounded, yolov8n-seg with random weights, whose masks are undecided, has errors of 0.3 px
and 0.003."""
INT8_YOLO: Final = YoloThresholds(16.0, 0.25, 0.8, shown_only=True)
"""Runtimes round int8 differently: on one graph with random weights onnxruntime and OpenVINO differ by 7 px, 0.09 and a
mean IoU of 0.89. This detects a broken engine; the export measures the cost of int8."""

_BEST: Final = 20
_INFINITE: Final = float(np.finfo(np.float32).max)
"""JSON cannot carry infinity."""


def compare_yolo(
    reference: Reference,
    engine: Engine,
    classes: int,
    feeds: Sequence[tuple[str, FloatArray]],
    thresholds: YoloThresholds,
    *,
    backend: str = "",
    progress: Callable[[int], None] = lambda _done: None,
) -> ParityRecord:
    """Run a reference and a graph on inputs and return the verdict.

    Args:
        reference: The ground truth.
        engine: The graph under test, without suppression.
        classes: Number of classes.
        feeds: Name and input of each probe, float32 ``[N, 3, H, W]``.
        thresholds: Allowed differences. NaN always fails.
        backend: The candidate, for the record; by default its backend and device.
        progress: Called with the number of finished probes.
    """
    box_error, rows = 0.0, []
    end = 4 + classes
    for name, feed in feeds:
        wanted, found = reference(feed), list(engine.run({INPUT: feed}).values())
        best = np.argsort(-wanted[0][0, 4:end].max(0))[:_BEST]
        anchors = best if thresholds.shown_only else slice(None)
        box_error = max(box_error, worst_error(wanted[0][:, :4, anchors], found[0][:, :4, anchors]))
        score_error = worst_error(wanted[0][:, 4:end], found[0][:, 4:end])
        if not all(np.isfinite(output).all() for output in found):
            score_error = _INFINITE
        mask_iou = 1.0
        if len(wanted) > 1:
            ious = _ious(*(_masks(outputs[0][0][end:, best], outputs[1][0]) for outputs in (found, wanted)))
            mask_iou = float(ious.mean() if thresholds.shown_only else ious.min())
        rows.append(ParityRow(name, "anchors", mask_iou, score_error))
        progress(len(rows))
    ious = np.array([row.mask_iou for row in rows])
    record = ParityRecord(
        verdict="failed",
        backend=backend or f"{engine.backend} {engine.device}",
        mask_iou_mean=float(ious.mean()),
        mask_iou_decile=float(np.quantile(ious, 0.1)),
        mask_iou_min=float(ious.min()),
        box_error_max=box_error,
        score_error_max=max(row.iou_error for row in rows),
        thresholds=thresholds.record(),
        rows=tuple(rows),
    )
    return judged(record)


def probe_feeds(
    image_size: tuple[int, int], batch: int, *, rect: bool, limits: InputLimits | None = None, stride: int = MAX_STRIDE
) -> list[tuple[str, FloatArray]]:
    """Return the probe images as inputs, by name.

    Args:
        image_size: (height, width) of the input, px.
        batch: Copies of each image in its input.
        rect: The input size is free.
        limits: Accepted input sizes; None for any.
        stride: Coarsest stride of the model, px.
    """
    limits = limits or InputLimits()
    feeds = []
    for probe in probe_set(max(image_size), 1):
        letterbox = limits.letterbox(probe.image.shape, image_size, rect=rect, stride=stride)
        feeds.append((probe.name, np.repeat(letterbox.input(probe.image), batch, 0)))
    return feeds


def worst_error(wanted: FloatArray, found: FloatArray) -> float:
    """Return the largest absolute difference; the largest float32 for NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        worst = np.abs(wanted - found).max(initial=0.0)
    return float(worst) if np.isfinite(worst) else _INFINITE


def _masks(coefficients: FloatArray, prototypes: FloatArray) -> FloatArray:
    """Return logits ``[K, H, W]`` from coefficients ``[M, K]`` and prototypes ``[M, H, W]``."""
    with np.errstate(invalid="ignore", over="ignore"):  # non-finite values have failed already
        logits: FloatArray = np.tensordot(coefficients.T, prototypes, 1)
    return logits


def _ious(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    a, b = (logits.reshape(len(logits), -1) > 0 for logits in (ours, theirs))
    both, either = (a & b).sum(1), (a | b).sum(1)
    ious: FloatArray = np.where(either, both / np.maximum(either, 1), 1.0)
    return ious
