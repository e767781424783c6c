"""What a detector says of one image: boxes with classes and, where it has them, scores. Knows numpy alone."""

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
    """A class of objects.

    Attributes:
        number: Its number in YOLO's labels, from 0.
        coco_id: Its number in COCO's file.
        name: What it is called.
    """

    number: int
    coco_id: int
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """N boxes in one image, in the order in which the detector gave them.

    Attributes:
        boxes: float32 ``[N, 4]``: x1, y1, x2, y2 in px.
        classes: int ``[N]``.
        scores: float32 ``[N]``; NaN where nobody gave one.
    """

    boxes: FloatArray
    classes: NDArray[np.intp]
    scores: FloatArray

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.classes)

    def chosen(self, conf: float, max_det: int, classes: Collection[int] | None) -> Proposals:
        """Return the boxes that are wanted, in their order.

        Args:
            conf: The score must be greater, where there is one.
            max_det: At most so many: the best, and those without a score first.
            classes: Only these; None for all.
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
    """Return boxes that somebody gave, checked.

    Args:
        boxes: ``[N, 4]``: x1, y1, x2, y2 in px.
        classes: N whole numbers, or N of the names.
        scores: N numbers, None where there is none; or None for all.
        names: Names of the classes by number.
        where: What error messages call the giver.

    Raises:
        UsageError: There are not as many of each, or one is no such thing.
    """
    corners = _numbers(boxes, where)
    corners = corners.reshape(0, 4) if corners.size == 0 else corners
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise UsageError(f"boxes have the shape {corners.shape}", where=where, cure="Give (N, 4): x1, y1, x2, y2")
    kinds = _class_numbers(_sequence(classes), names, where)
    given = [None] * len(corners) if scores is None else _sequence(scores)
    if not len(corners) == len(kinds) == len(given):
        raise UsageError(
            f"there are {len(corners)} boxes, {len(kinds)} classes and {len(given)} scores",
            where=where,
            cure="Give one of each for every object",
        )
    confidences = _numbers([math.nan if score is None else score for score in given], where)
    return Proposals(corners, np.array(kinds, np.intp), confidences)


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
        raise UsageError(f"these are no numbers: {error}", where=where, cure="Give (N, 4): x1, y1, x2, y2") from error


def _class_numbers(kinds: Sequence[object], names: Mapping[int, str], where: str) -> list[int]:
    numbers = {name: number for number, name in names.items()}
    found: list[int] = []
    for kind in kinds:
        if isinstance(kind, str):
            if kind not in numbers:
                raise UsageError(
                    f"there is no class {kind!r}", where=where, cure="Give numbers, or name all classes in names="
                )
            found.append(numbers[kind])
        elif isinstance(kind, (int, float, np.number)) and float(kind).is_integer() and float(kind) >= 0:
            found.append(int(kind))
        else:
            raise UsageError(f"a class is {kind!r}", where=where, cure="Give whole numbers from 0, or names")
    return found
