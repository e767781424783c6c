"""Whether the graph of a YOLO says what the torch model says: raw outputs on the probe images, before suppression.

Suppression is the same host code for both and would turn a rounding error near a threshold into a missing box, so what
is judged is what it starts from: boxes, scores, and the masks of the anchors that score best.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import torch

from samedge.engines.protocol import Engine
from samedge.export.probes import probe_set
from samedge.models.yolo import Yolo
from samedge.runtime.letterbox import Letterbox
from samedge.runtime.yolo_graph import INPUT
from samedge.types import FloatArray, Verdict

MAX_BOX_ERROR: Final = 0.5
MAX_SCORE_ERROR: Final = 1e-3
MIN_MASK_IOU: Final = 0.99

_BEST: Final = 20


@dataclass(frozen=True, slots=True)
class YoloParity:
    """How far the graph was from the torch model, the worst over the probe images.

    Attributes:
        verdict: "passed", "failed", or "unchecked".
        box_error_max: px of the input.
        score_error_max: Of 0..1.
        mask_iou_min: Of the masks at the resolution of the prototypes; 1 for a detector.
    """

    verdict: Verdict
    box_error_max: float = 0.0
    score_error_max: float = 0.0
    mask_iou_min: float = 1.0

    def to_json(self) -> str:
        """Returns the record as JSON."""
        return json.dumps(asdict(self))


def check_yolo(model: Yolo, engine: Engine, image_size: tuple[int, int], *, rect: bool) -> YoloParity:
    """Runs model and graph on the probe images and returns the verdict.

    Args:
        model: In evaluation mode.
        engine: Its graph.
        image_size: (height, width) of the input, px.
        rect: The graph's input size is free.
    """
    height, width = image_size
    box_error, score_error, mask_iou = 0.0, 0.0, 1.0
    for probe in probe_set(max(height, width), 1):
        letterbox = Letterbox.of(probe.image.shape[0], probe.image.shape[1], height, width, rect=rect)
        feed = letterbox.input(probe.image)
        with torch.no_grad():
            wanted = [output.numpy() for output in model(torch.from_numpy(feed))]
        found = list(engine.run({INPUT: feed}).values())
        classes = 4 + model.config.classes
        box_error = max(box_error, _error(wanted[0][:, :4], found[0][:, :4]))
        score_error = max(score_error, _error(wanted[0][:, 4:classes], found[0][:, 4:classes]))
        if model.config.segments:
            best = np.argsort(-wanted[0][0, 4:classes].max(0))[:_BEST]
            ours, theirs = (_masks(out[0][0, classes:, best], out[1][0]) for out in (found, wanted))
            mask_iou = min(mask_iou, _worst_iou(ours, theirs))
    passed = box_error <= MAX_BOX_ERROR and score_error <= MAX_SCORE_ERROR and mask_iou >= MIN_MASK_IOU
    return YoloParity("passed" if passed else "failed", box_error, score_error, mask_iou)


def _error(wanted: FloatArray, found: FloatArray) -> float:
    worst = np.abs(wanted - found).max()
    return float(worst) if np.isfinite(worst) else float("inf")


def _masks(coefficients: FloatArray, prototypes: FloatArray) -> FloatArray:
    logits: FloatArray = np.tensordot(coefficients, prototypes, 1)
    return logits


def _worst_iou(ours: FloatArray, theirs: FloatArray) -> float:
    a, b = (logits.reshape(len(logits), -1) > 0 for logits in (ours, theirs))
    both, either = (a & b).sum(1), (a | b).sum(1)
    return float(np.where(either, both / np.maximum(either, 1), 1.0).min(initial=1.0))
