"""Selection of masks by prompts, for models that segment everything at once."""

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
    """Return the objects selected by prompts; all of them without prompts.

    A box selects the mask that overlaps it best. Points together select the masks that contain a point with label 1 and
    none with label 0; if all labels are 0, the masks that contain none of them. With boxes and points, an object must
    match one of them. `Results.prompt_index` is the first prompt that selects the object, boxes counted before points.

    Args:
        results: Results of one image.
        bboxes: (x1, y1, x2, y2) in px: ``(4,)`` or ``(N, 4)``.
        points: (x, y) in px: ``(2,)`` or ``(P, 2)``.
        labels: 1 inside, 0 outside, ``(P,)``; by default all 1.

    Raises:
        PromptError: A prompt has the wrong shape, or the number of labels differs from that of the points.
    """
    if bboxes is None and points is None:
        if labels is not None:
            raise PromptError("labels were given without points", cure="Give points=")
        return results
    boxes = _numbers("bboxes", bboxes, 4)
    dots = _numbers("points", points, 2)
    signs = _labels(labels, len(dots))
    masks = results.masks.data if results.masks is not None else np.zeros((0, *results.orig_shape), np.bool_)
    if not len(results) or not len(masks):
        return results
    selected_by = _selecting_points(masks, dots, signs, len(boxes)) if len(dots) else np.full(len(masks), -1)
    for number in reversed(range(len(boxes))):
        selected_by[_best(masks, boxes[number])] = number
    chosen = np.flatnonzero(selected_by >= 0)
    kept = results[chosen]
    kept.update(prompt_index=selected_by[chosen])
    return kept


def _best(masks: BoolArray, box: NDArray[np.float64]) -> int:
    """Return the index of the mask with the largest IoU with a box."""
    height, width = masks.shape[1:]
    left, top, right, bottom = np.clip(box, 0, [width, height, width, height]).astype(int)
    inside = masks[:, top:bottom, left:right].sum((1, 2))
    union = (right - left) * (bottom - top) + masks.sum((1, 2)) - inside
    return int(np.argmax(inside / np.maximum(union, 1)))


def _selecting_points(
    masks: BoolArray, points: NDArray[np.float64], labels: NDArray[np.intp], first: int
) -> NDArray[np.intp]:
    """Return the first point that selects each mask, counted from `first`; -1 for masks that none selects."""
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
        raise PromptError(f"{name} are not numbers: {error}", cure=f"Give (N, {columns})") from error
    if not array.size:
        return np.zeros((0, columns))
    array = array[None] if array.ndim == 1 else array
    if not np.isfinite(array).all():
        raise PromptError(f"{name} are not finite", cure="Give finite numbers")
    if array.ndim != 2 or array.shape[1] != columns:
        raise PromptError(f"invalid {name} of shape {array.shape}", cure=f"Give ({columns},) or (N, {columns})")
    return array


def _labels(labels: PromptLike | None, count: int) -> NDArray[np.intp]:
    signs = np.ones(count, np.intp) if labels is None else np.asarray(labels).reshape(-1)
    if len(signs) != count or not np.isin(signs, (0, 1)).all():
        raise PromptError(
            f"labels are {signs.tolist()} for {count} points", cure="Give 1 (inside) or 0 (outside) for each point"
        )
    return signs.astype(np.intp)
