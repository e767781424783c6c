"""Masks found by points that passed the thresholds, kept as runs, not pixels: thousands fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samedge.runtime.everything.crops import Crop
from samedge.runtime.masks.nms import nms
from samedge.runtime.masks.rle import Rle
from samedge.types import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One mask.

    Attributes:
        rle: The mask, at image size.
        box: float32 ``(x1, y1, x2, y2)``, first and last column and row in px of the image; zeros if empty.
        predicted_iou: IoU predicted by the model.
        stability: IoU of the mask with itself at a higher and a lower threshold.
        point: (x, y) in px of the image: the prompt that found it.
        crop: The crop it was found in.
        asked: Index of the point in the crop's grid.
    """

    rle: Rle
    box: FloatArray
    predicted_iou: np.float32
    stability: float
    point: tuple[float, float]
    crop: Crop
    asked: int


def boxes_of(candidates: Sequence[Candidate]) -> FloatArray:
    """Return the boxes, float32 ``[N, 4]``."""
    return np.array([candidate.box for candidate in candidates], np.float32).reshape(-1, 4)


def distinct_in_crop(candidates: Sequence[Candidate], iou_threshold: float) -> list[Candidate]:
    """Return the masks that do not resemble a better one of the same crop, by falling predicted IoU.

    Args:
        candidates: Masks of one crop, in the order of their points.
        iou_threshold: Masks whose boxes have a greater IoU resemble each other.
    """
    # Before they are moved into the image, where Meta's generator compares boxes.
    offset = np.zeros(4, np.float32)
    if candidates:
        offset = np.array(candidates[0].crop.xyxy[:2] * 2, np.float32)
    scores = np.array([candidate.predicted_iou for candidate in candidates], np.float32)
    return _chosen(candidates, nms(boxes_of(candidates) - offset, scores, iou_threshold))


def distinct_across_crops(candidates: Sequence[Candidate], iou_threshold: float) -> list[Candidate]:
    """Return the masks that do not resemble one of a smaller crop, those of small crops first.

    Args:
        candidates: Masks of all crops, in crop order.
        iou_threshold: Masks whose boxes have a greater IoU resemble each other.
    """
    areas = np.array([candidate.crop.width * candidate.crop.height for candidate in candidates], np.int64)
    return _chosen(candidates, nms(boxes_of(candidates), (1 / areas).astype(np.float32), iou_threshold))


def _chosen(candidates: Sequence[Candidate], rows: NDArray[np.intp]) -> list[Candidate]:
    return [candidates[row] for row in rows]
