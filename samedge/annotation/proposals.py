"""Proposals of a detector for one image: boxes, classes and, where available, scores."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samedge.errors import UsageError
from samedge.types import FloatArray


@dataclass(frozen=True, slots=True)
class Category:
    """A class of objects, with its number in YOLO labels, from 0, and its id in the COCO file."""

    number: int
    coco_id: int
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """N boxes in one image, in the detector's order.

    Attributes:
        boxes: float32 ``[N, 4]``: x1, y1, x2, y2 in px.
        classes: int ``[N]``.
        scores: float32 ``[N]``; NaN where there is none.
    """

    boxes: FloatArray
    classes: NDArray[np.intp]
    scores: FloatArray

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.classes)

    def chosen(self, conf: float, max_det: int, classes: Collection[int] | None) -> Proposals:
        """Return the boxes of the given classes whose score, if any, exceeds `conf`, in their order.

        If there are more than `max_det`, boxes without a score are kept first, then the best.
        """
        wanted = ~(self.scores <= np.float32(conf))
        if classes is not None:
            wanted &= np.isin(self.classes, list(classes))
        rows = np.flatnonzero(wanted)
        if len(rows) > max_det:
            best = np.argsort(-np.nan_to_num(self.scores[rows], nan=math.inf), kind="stable")[:max_det]
            rows = np.sort(rows[best])
        return Proposals(self.boxes[rows], self.classes[rows], self.scores[rows])


def read_proposals(
    boxes: object, classes: object, scores: object = None, *, names: Mapping[int, str], where: str
) -> Proposals:
    """Validate boxes from outside, ``[N, 4]``: x1, y1, x2, y2 in px, and return them as `Proposals`.

    Classes are N numbers, or names listed in `names`; scores are N numbers or None. `where` is the source in errors.
    """
    corners = _numbers(boxes, where)
    corners = corners.reshape(0, 4) if corners.size == 0 else corners
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise UsageError(f"boxes have the shape {corners.shape}", where=where, cure="Give (N, 4): x1, y1, x2, y2")
    numbers = _class_numbers(_sequence(classes), names, where)
    given = [None] * len(corners) if scores is None else _sequence(scores)
    if not len(corners) == len(numbers) == len(given):
        raise UsageError(
            f"there are {len(corners)} boxes, {len(numbers)} classes and {len(given)} scores",
            where=where,
            cure="Give one of each per object",
        )
    confidences = _numbers([math.nan if score is None else score for score in given], where)
    return Proposals(corners, np.array(numbers, np.intp), confidences)


def _sequence(values: object) -> list[object]:
    if isinstance(values, np.ndarray):
        listed: list[object] = values.reshape(-1).tolist()
        return listed
    if isinstance(values, Sequence) and not isinstance(values, str):
        return list(values)
    raise UsageError(f"classes and scores cannot be a {type(values).__name__}", cure="Give a list or an array")


def _numbers(values: object, where: str) -> FloatArray:
    try:
        return np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"not numbers: {error}", where=where, cure="Give (N, 4): x1, y1, x2, y2") from error


def _class_numbers(classes: Sequence[object], names: Mapping[int, str], where: str) -> list[int]:
    by_name = {name: number for number, name in names.items()}
    numbers: list[int] = []
    for item in classes:
        if isinstance(item, str):
            if item not in by_name:
                raise UsageError(
                    f"unknown class {item!r}", where=where, cure="Give numbers, or name all classes in names="
                )
            numbers.append(by_name[item])
        elif isinstance(item, (int, float, np.number)) and float(item).is_integer() and float(item) >= 0:
            numbers.append(int(item))
        else:
            raise UsageError(f"invalid class {item!r}", where=where, cure="Give whole numbers from 0, or names")
    return numbers
