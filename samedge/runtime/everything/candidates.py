"""Masks found by points that passed the thresholds, kept as runs, not pixels: thousands fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
        grid_index: Index of the point in the crop's grid.
    """

    rle: Rle
    box: FloatArray
    predicted_iou: np.float32
    stability: float
    point: tuple[float, float]
    crop: Crop
    grid_index: int


def boxes_of(candidates: Sequence[Candidate]) -> FloatArray:
    """Return the boxes, float32 ``[N, 4]``."""
    return np.array([candidate.box for candidate in candidates], np.float32).reshape(-1, 4)


def distinct_in_crop(candidates: Sequence[Candidate], iou_threshold: float) -> list[Candidate]:
    """Return the masks of one crop by falling predicted IoU, without those whose boxes overlap a better one's.

    Candidates are in the order of their points, which decides between equal scores.
    """
    if not candidates:
        return []
    # In px of the crop, as Meta's generator compares boxes.
    boxes = boxes_of(candidates) - np.array(candidates[0].crop.xyxy[:2] * 2, np.float32)
    scores = np.array([candidate.predicted_iou for candidate in candidates], np.float32)
    return [candidates[row] for row in nms(boxes, scores, iou_threshold)]


def distinct_across_crops(candidates: Sequence[Candidate], iou_threshold: float) -> list[Candidate]:
    """Return the masks of all crops, those of small crops first, without those whose boxes overlap an earlier one's."""
    areas = np.array([candidate.crop.width * candidate.crop.height for candidate in candidates], np.int64)
    return [candidates[row] for row in nms(boxes_of(candidates), (1 / areas).astype(np.float32), iou_threshold)]
