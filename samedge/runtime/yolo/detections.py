"""Selection of boxes from a YOLO graph's output for every anchor."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np

from samedge.errors import TensorMismatchError
from samedge.options import check_thresholds
from samedge.runtime.masks.nms import batched_nms
from samedge.types import FloatArray

MAX_CANDIDATES: Final = 30_000
"""Most boxes considered by suppression, the best first; more would take minutes."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds for the boxes that are kept.

    Attributes:
        conf: Minimum score of a box, exclusive.
        iou: Of two boxes of one class with a greater IoU, the lower-scoring one is dropped.
        max_det: Maximum number of boxes per image.
        classes: Accepted classes; None for all.
        agnostic: Suppress boxes across classes.
    """

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    classes: Collection[int] | None = None
    agnostic: bool = False

    def __post_init__(self) -> None:
        check_thresholds(self.conf, self.iou, self.max_det)


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes in px of the graph's input: float32 ``[N, 4]`` x1, y1, x2, y2; scores, falling, and classes ``[N]``.

    `coefficients` are ``[N, M]``, for M mask prototypes; M is 0 for a detector.
    """

    boxes: FloatArray
    scores: FloatArray
    classes: FloatArray
    coefficients: FloatArray

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.scores)


def detect(output: FloatArray, class_count: int, thresholds: Thresholds) -> Detections:
    """Return the boxes of one image above the score threshold that do not overlap a better one.

    Each anchor gives one box, of its best-scoring class. `output` is float32 ``[4 + C + M, A]``: centre x and y, width,
    height in px, C scores 0..1, M mask coefficients.

    Raises:
        TensorMismatchError: The output has fewer rows.
    """
    if output.ndim != 2 or output.shape[0] < 4 + class_count:
        raise TensorMismatchError(
            f"an output of the shape {output.shape} has no {class_count} classes",
            cure="Give the names of the classes that the graph was trained on",
        )
    scores = output[4 : 4 + class_count]
    at = np.flatnonzero(scores.max(0, initial=-np.inf) > thresholds.conf)
    classes = scores[:, at].argmax(0) if len(at) else np.zeros(0, np.intp)
    if thresholds.classes is not None:
        chosen = np.isin(classes, list(thresholds.classes))
        at, classes = at[chosen], classes[chosen]
    best = scores[classes, at]
    if len(at) > MAX_CANDIDATES:
        top = np.argsort(-best, kind="stable")[:MAX_CANDIDATES]
        at, classes, best = at[top], classes[top], best[top]
    centre, half = output[:2, at].T, output[2:4, at].T / np.float32(2)
    boxes = np.concatenate([centre - half, centre + half], 1)
    groups = np.zeros_like(classes) if thresholds.agnostic else classes
    kept = batched_nms(boxes, best, groups, thresholds.iou)[: thresholds.max_det]
    return Detections(
        boxes[kept], best[kept], classes[kept].astype(np.float32), output[4 + class_count :, at[kept]].T.copy()
    )


def select(output: FloatArray, thresholds: Thresholds) -> Detections:
    """Return the boxes of one image above the score threshold, from a graph that has suppressed the others.

    `output` is float32 ``[K, 6 + M]``: x1, y1, x2, y2 in px, score, class, M mask coefficients. `iou` and `agnostic`
    are fixed in the graph.
    """
    chosen = output[:, 4] > thresholds.conf
    if thresholds.classes is not None:
        chosen &= np.isin(output[:, 5].astype(np.intp), list(thresholds.classes))
    rows = output[chosen]
    rows = rows[np.argsort(-rows[:, 4], kind="stable")[: thresholds.max_det]]
    return Detections(rows[:, :4], rows[:, 4], rows[:, 5], rows[:, 6:])
