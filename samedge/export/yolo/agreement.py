"""Agreement of two graphs of one YOLO on the objects in the user's images, the criterion for int8.

Raw outputs would say little: int8 moves every number a bit. What counts is whether the boxes and masks that a user is
shown stay. A score that lies near the threshold falls to either side of it by chance, so an object of one graph counts
as found by the other from half the threshold on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from samedge.bundle.manifest import ObjectsRecord
from samedge.runtime.image.read import ImageSource
from samedge.runtime.masks.nms import box_ious
from samedge.runtime.results.results import Results
from samedge.runtime.yolo.detections import Thresholds
from samedge.runtime.yolo.predictor import YoloPredictor
from samedge.types import Verdict

CONF: Final = 0.25
SAME_PLACE: Final = 0.5
"""Boxes of one object overlap by at least this IoU."""
THRESHOLDS: Final[Mapping[str, float]] = {"found": 0.9, "box_iou": 0.9, "mask_iou": 0.9}
"""Shares and mean IoUs must be at least these."""

_MOST: Final = 100


def agreement(
    baseline: YoloPredictor, candidate: YoloPredictor, images: Iterable[ImageSource], *, conf: float = CONF
) -> ObjectsRecord:
    """Compare what two predictors find.

    Args:
        baseline: Of the one graph.
        candidate: Of the other.
        images: The images.
        conf: Objects that either of them gives this score are looked for in the other.
    """
    pictures, objects, found = 0, 0, 0
    boxes: list[float] = []
    masks: list[float] = []
    low = Thresholds(conf=conf / 2, max_det=_MOST)
    for image in images:
        pictures += 1
        both = [predictor.predict(image, thresholds=low) for predictor in (baseline, candidate)]
        for one, other in (both, both[::-1]):
            for number in _at_least(one, conf):
                objects += 1
                pair = _counterpart(one, number, other)
                if pair is None:
                    continue
                found += 1
                at, iou = pair
                boxes.append(iou)
                if one.masks is not None and other.masks is not None:
                    a, b = one.masks.data[number], other.masks.data[at]
                    either = int((a | b).sum())
                    masks.append(float((a & b).sum() / either) if either else 1.0)
    return ObjectsRecord(
        images=pictures,
        objects=objects,
        found=found / objects if objects else 0.0,
        box_iou=_mean(boxes),
        mask_iou=_mean(masks) if baseline.graph.segments else None,
    )


def verdict_of(record: ObjectsRecord) -> Verdict:
    """Return whether the figures are good enough."""
    masks = 1.0 if record.mask_iou is None else record.mask_iou
    figures = {"found": record.found, "box_iou": record.box_iou, "mask_iou": masks}
    return "passed" if all(figures[name] >= least for name, least in THRESHOLDS.items()) else "failed"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _at_least(results: Results, conf: float) -> list[int]:
    if results.boxes is None:
        return []
    return [int(number) for number in np.flatnonzero(results.boxes.data[:, 4] > conf)]


def _counterpart(one: Results, number: int, other: Results) -> tuple[int, float] | None:
    """Return which object of `other` is the one of this number, and how far their boxes overlap."""
    if one.boxes is None or other.boxes is None or not len(other):
        return None
    box = one.boxes.data[number]
    ious = np.nan_to_num(box_ious(box[:4], other.boxes.data[:, :4]))
    ious[other.boxes.data[:, 5] != box[5]] = 0
    at = int(ious.argmax())
    return (at, float(ious[at])) if ious[at] >= SAME_PLACE else None
