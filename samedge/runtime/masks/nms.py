"""Non-maximum suppression of boxes, by torchvision's rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samedge.errors import UsageError
from samedge.types import Array, FloatArray


def nms(boxes: Array, scores: Array, iou_threshold: float) -> NDArray[np.intp]:
    """Return the indices of the kept boxes, by falling score.

    Greedy: the best box is kept, boxes whose IoU with it is greater than the threshold are dropped, and so on. As in
    ``torchvision.ops.nms``, equal scores keep their order, IoUs are float32 and compared in float64, and two boxes
    without area do not suppress each other. Boxes are ``[N, 4]``: x1, y1, x2, y2 in any unit.

    Raises:
        UsageError: The shapes do not match.
    """
    corners, ranks = _checked(boxes, scores)
    order = np.argsort(-ranks, kind="stable")
    corners = corners[order]
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    alive = np.ones(len(corners), np.bool_)
    kept: list[int] = []
    for at in range(len(corners)):
        if not alive[at]:
            continue
        kept.append(at)
        rest = at + 1 + np.flatnonzero(alive[at + 1 :])
        overlap = _iou(corners[at], areas[at], corners[rest], areas[rest])
        alive[rest[overlap.astype(np.float64) > iou_threshold]] = False
    return order[np.array(kept, np.intp)]


def batched_nms(boxes: Array, scores: Array, groups: Array, iou_threshold: float) -> NDArray[np.intp]:
    """Return the indices of the kept boxes, by falling score; only boxes of the same group suppress each other.

    Each group is treated separately; torchvision shifts the boxes of each group by a large number instead, which for
    few boxes gives the same up to the rounding of float32. Groups, such as classes, are ``[N]``.

    Raises:
        UsageError: The shapes do not match.
    """
    corners, ranks = _checked(boxes, scores)
    names = np.asarray(groups).reshape(-1)
    if len(names) != len(ranks):
        raise UsageError(f"{len(ranks)} boxes do not match {len(names)} groups", cure="Give one group for each box")
    kept = np.zeros(len(ranks), np.bool_)
    for name in np.unique(names):
        members = np.flatnonzero(names == name)
        kept[members[nms(corners[members], ranks[members], iou_threshold)]] = True
    chosen = np.flatnonzero(kept)
    return chosen[np.argsort(-ranks[chosen], kind="stable")]


def box_ious(box: Array, boxes: Array) -> FloatArray:
    """Return the IoU of one box ``[4]`` with others ``[N, 4]``, float32 ``[N]``; NaN where neither has an area."""
    one, many = np.asarray(box, np.float32), np.asarray(boxes, np.float32).reshape(-1, 4)
    area = (one[2] - one[0]) * (one[3] - one[1])
    return _iou(one, area, many, (many[:, 2] - many[:, 0]) * (many[:, 3] - many[:, 1]))


def _iou(box: FloatArray, area: np.float32, boxes: FloatArray, areas: FloatArray) -> FloatArray:
    size = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.maximum(size[:, 0], np.float32(0)) * np.maximum(size[:, 1], np.float32(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        iou: FloatArray = shared / (area + areas - shared)
    return iou


def _checked(boxes: Array, scores: Array) -> tuple[FloatArray, FloatArray]:
    corners = np.asarray(boxes, np.float32)
    if corners.size == 0:
        corners = corners.reshape(0, 4)
    ranks = np.asarray(scores, np.float32)
    if corners.ndim != 2 or corners.shape[1] != 4 or ranks.shape != (len(corners),):
        raise UsageError(
            f"boxes have the shape {corners.shape} and scores {ranks.shape}",
            cure="Give boxes (N, 4) and scores (N,)",
            shape=corners.shape,
        )
    return corners, ranks
