"""Prompts that choose among masks which were found without them, for models that segment everything at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samedge.errors import PromptError
from samedge.runtime.prompts.shapes import PromptLike
from samedge.runtime.results.results import Results
from samedge.types import BoolArray


def choose(
    results: Results,
    bboxes: PromptLike | None = None,
    points: PromptLike | None = None,
    labels: PromptLike | None = None,
) -> Results:
    """Return the objects that prompts mean; all of them where there is no prompt.

    A box means the one mask that overlaps it best. Points mean, together, the masks that hold any point with label 1
    and no point with label 0; points with label 0 alone mean the masks that hold none of them. With boxes and points,
    an object needs one of them. `Results.prompt_index` counts the boxes, then the points: the first that an object
    answers.

    Args:
        results: Of an image.
        bboxes: (x1, y1, x2, y2) in px: ``(4,)`` or ``(N, 4)``.
        points: (x, y) in px: ``(2,)`` or ``(P, 2)``.
        labels: 1 inside, 0 outside, ``(P,)``; all 1 if left out.

    Raises:
        PromptError: A prompt has another shape, or labels and points are not equally many.
    """
    if bboxes is None and points is None:
        if labels is not None:
            raise PromptError("there are labels and no points", cure="Give points=")
        return results
    boxes = _numbers("bboxes", bboxes, 4)
    dots = _numbers("points", points, 2)
    signs = _labels(labels, len(dots))
    masks = results.masks.data if results.masks is not None else np.zeros((0, *results.orig_shape), np.bool_)
    if not len(results) or not len(masks):
        return results
    answers = np.full(len(masks), -1)
    if len(dots):
        answers = _held(masks, dots, signs, len(boxes))
    for number in reversed(range(len(boxes))):
        answers[_best(masks, boxes[number])] = number
    chosen = np.flatnonzero(answers >= 0)
    kept = results[chosen]
    kept.update(prompt_index=answers[chosen])
    return kept


def _best(masks: BoolArray, box: NDArray[np.float64]) -> int:
    """Return which mask has the largest IoU with a box."""
    height, width = masks.shape[1:]
    left, top, right, bottom = np.clip(box, 0, [width, height, width, height]).astype(int)
    inside = masks[:, top:bottom, left:right].sum((1, 2))
    union = (right - left) * (bottom - top) + masks.sum((1, 2)) - inside
    return int(np.argmax(inside / np.maximum(union, 1)))


def _held(masks: BoolArray, points: NDArray[np.float64], labels: NDArray[np.intp], first: int) -> NDArray[np.intp]:
    """Return the number of the first point that each mask answers, counted from `first`; -1 where it answers none."""
    height, width = masks.shape[1:]
    columns, rows = np.clip(points, 0, [width - 1, height - 1]).astype(int).T
    held = masks[:, rows, columns]
    wanted, refused = held[:, labels == 1], held[:, labels == 0].any(1)
    if not wanted.shape[1]:
        return np.where(refused, -1, first)
    number = first + np.flatnonzero(labels == 1)[wanted.argmax(1)]
    return np.where(wanted.any(1) & ~refused, number, -1)


def _numbers(name: str, prompt: PromptLike | None, columns: int) -> NDArray[np.float64]:
    if prompt is None:
        return np.zeros((0, columns))
    try:
        array = np.asarray(prompt, np.float64)
    except (ValueError, TypeError) as error:
        raise PromptError(f"{name} are no numbers: {error}", cure=f"Give (N, {columns})") from error
    array = array[None] if array.ndim == 1 and array.size else array.reshape(-1, columns) if not array.size else array
    if array.ndim != 2 or array.shape[1] != columns or not np.isfinite(array).all():
        raise PromptError(
            f"{name} have the shape {array.shape}" if np.isfinite(array).all() else f"{name} are not finite",
            cure=f"Give ({columns},) or (N, {columns})",
        )
    return array


def _labels(labels: PromptLike | None, count: int) -> NDArray[np.intp]:
    signs = np.ones(count, np.intp) if labels is None else np.asarray(labels).reshape(-1)
    if len(signs) != count or not np.isin(signs, (0, 1)).all():
        raise PromptError(
            f"labels are {signs.tolist()} for {count} points", cure="Give 1 (inside) or 0 (outside) for each point"
        )
    return signs.astype(np.intp)
