"""Whether the graph of a YOLO says what the torch model says: raw outputs on the probe images, before suppression.

Suppression is the same host code for both and would turn a rounding error near a threshold into a missing box, so what
is judged is what it starts from: boxes, scores, and the masks of the anchors that score best. Where suppression is in
the graph, it is compared with the host's on the same raw outputs.
"""

from __future__ import annotations

import json
from typing import Final

import numpy as np
import torch

from samedge.engines.protocol import Engine
from samedge.models.yolo import Yolo
from samedge.runtime.detections import Thresholds, detect
from samedge.runtime.letterbox import Letterbox
from samedge.runtime.manifest import ParityRecord, ParityRow
from samedge.runtime.parity.probes import probe_set
from samedge.runtime.yolo_graph import INPUT, OUTPUT
from samedge.runtime.yolo_record import SuppressionRecord
from samedge.types import FloatArray

MAX_BOX_ERROR: Final = 0.5
MAX_SCORE_ERROR: Final = 1e-3
MIN_MASK_IOU: Final = 0.99
MAX_SUPPRESSION_ERROR: Final = 1e-3

_BEST: Final = 20
_THRESHOLDS: Final = {"box_error_max": MAX_BOX_ERROR, "score_error_max": MAX_SCORE_ERROR, "mask_iou_min": MIN_MASK_IOU}


def parity_json(parity: ParityRecord) -> str:
    """Returns the verdict and the worst figures as JSON, for the metadata of the graph's file."""
    names = ("verdict", "box_error_max", "score_error_max", "mask_iou_min")
    return json.dumps({name: getattr(parity, name) for name in names})


def check_yolo(model: Yolo, engine: Engine, image_size: tuple[int, int], *, rect: bool, batch: int = 1) -> ParityRecord:
    """Runs model and graph on the probe images and returns the verdict.

    Args:
        model: In evaluation mode.
        engine: Its graph, without suppression.
        image_size: (height, width) of the input, px.
        rect: The graph's input size is free.
        batch: How many images the graph is given at once: each probe so many times.
    """
    box_error, rows = 0.0, []
    classes = 4 + model.config.classes
    for name, feed in _probes(image_size, batch, rect=rect):
        with torch.no_grad():
            wanted = [output.numpy() for output in model(torch.from_numpy(feed))]
        found = list(engine.run({INPUT: feed}).values())
        box_error = max(box_error, _error(wanted[0][:, :4], found[0][:, :4]))
        score_error = _error(wanted[0][:, 4:classes], found[0][:, 4:classes])
        mask_iou = 1.0
        if model.config.segments:
            best = np.argsort(-wanted[0][0, 4:classes].max(0))[:_BEST]
            ours, theirs = (_masks(out[0][0, classes:, best], out[1][0]) for out in (found, wanted))
            mask_iou = _worst_iou(ours, theirs)
        rows.append(ParityRow(name, "anchors", mask_iou, score_error))
    ious = [row.mask_iou for row in rows]
    score_error = max(row.iou_error for row in rows)
    passed = box_error <= MAX_BOX_ERROR and score_error <= MAX_SCORE_ERROR and min(ious) >= MIN_MASK_IOU
    return ParityRecord(
        verdict="passed" if passed else "failed",
        backend=f"{engine.backend} {engine.device}",
        mask_iou_mean=float(np.mean(ious)),
        mask_iou_decile=float(np.quantile(ious, 0.1)),
        mask_iou_min=min(ious),
        box_error_max=box_error,
        score_error_max=score_error,
        thresholds=dict(_THRESHOLDS),
        rows=tuple(rows),
    )


def suppression_error(
    raw: Engine,
    suppressed: Engine,
    classes: int,
    record: SuppressionRecord,
    image_size: tuple[int, int],
    *,
    rect: bool,
    batch: int = 1,
) -> float:
    """Returns how far the rows of a graph that suppresses are from the host's at worst; inf where there are others.

    Args:
        raw: The graph without suppression.
        suppressed: The same with it.
        classes: Number of classes.
        record: How it suppresses.
        image_size: (height, width) of the input, px.
        rect: The input size is free.
        batch: How many images the graphs are given at once.
    """
    thresholds = Thresholds(record.conf, record.iou, record.max_det, agnostic=record.agnostic)
    worst = 0.0
    for _, feed in _probes(image_size, batch, rect=rect):
        kept = detect(raw.run({INPUT: feed}, [OUTPUT])[OUTPUT][0], classes, thresholds)
        wanted = np.column_stack([kept.boxes, kept.scores, kept.classes, kept.coefficients])
        found = suppressed.run({INPUT: feed}, [OUTPUT])[OUTPUT][0]
        if np.any(found[len(wanted) :]):
            return float("inf")
        worst = max(worst, _error(wanted, found[: len(wanted)]))
    return worst


def _probes(image_size: tuple[int, int], batch: int, *, rect: bool) -> list[tuple[str, FloatArray]]:
    """Returns the probe images as inputs, by name."""
    height, width = image_size
    feeds = []
    for probe in probe_set(max(height, width), 1):
        letterbox = Letterbox.of(probe.image.shape[0], probe.image.shape[1], height, width, rect=rect)
        feeds.append((probe.name, np.repeat(letterbox.input(probe.image), batch, 0)))
    return feeds


def _error(wanted: FloatArray, found: FloatArray) -> float:
    worst = np.abs(wanted - found).max(initial=0.0)
    return float(worst) if np.isfinite(worst) else float("inf")


def _masks(coefficients: FloatArray, prototypes: FloatArray) -> FloatArray:
    logits: FloatArray = np.tensordot(coefficients, prototypes, 1)
    return logits


def _worst_iou(ours: FloatArray, theirs: FloatArray) -> float:
    a, b = (logits.reshape(len(logits), -1) > 0 for logits in (ours, theirs))
    both, either = (a & b).sum(1), (a | b).sum(1)
    return float(np.where(either, both / np.maximum(either, 1), 1.0).min(initial=1.0))
