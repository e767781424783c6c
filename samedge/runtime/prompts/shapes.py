"""Conversion of points, labels, boxes and masks in any accepted shape to a list with one entry per prompt.

Errors name the prompt concerned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samedge.errors import PromptError
from samedge.runtime.image.geometry import ImageGeometry
from samedge.types import BoolArray, FloatArray, IntArray

PromptLike: TypeAlias = ArrayLike | Sequence[ArrayLike | None]
Numbers: TypeAlias = NDArray[np.float64]

PADDING: Final = -1
# Magnitude of the logits of a drawn mask: SAM was trained on its own logits, which are about as large.
_PROMPT_LOGIT: Final = np.float32(10)
# SAM's own logits stay below 100; larger ones than this overflow half precision within the prompt encoder.
_MOST_LOGIT: Final = 1e4
_POINT_SHAPES: Final = (
    "Give [x, y] for one prompt, (N, 2) for N prompts of one point each, or (N, P, 2) for N prompts of P points"
)


def read_points(points: PromptLike) -> list[Numbers]:
    """Return the points of each prompt: float64 ``[P, 2]``, (x, y) in px of the original image.

    Raises:
        PromptError: The shape is wrong, or a number is not finite.
    """
    whole = _numbers(points, "points")
    if whole is not None and whole.size == 0 and whole.ndim > 0:
        return [np.empty((0, 2)) for _ in range(len(whole))]
    if whole is not None:
        if whole.ndim not in (1, 2, 3) or whole.shape[-1] != 2:
            raise PromptError(f"invalid points of shape {whole.shape}", where="points", cure=_POINT_SHAPES)
        shaped = whole.reshape(1, 1, 2) if whole.ndim == 1 else whole
        parsed = list(shaped[:, None, :] if shaped.ndim == 2 else shaped)
    else:
        parsed = []
        for at, entry in enumerate(_entries(points, "points")):
            own = np.empty((0, 2)) if entry is None else _numbers(entry, f"points[{at}]")
            own = np.empty((0, 2)) if own is not None and own.size == 0 else own
            if own is None or own.ndim not in (1, 2) or own.shape[-1] != 2:
                shape = "is ragged" if own is None else f"has the shape {own.shape}"
                raise PromptError(f"the entry {shape}", where=f"points[{at}]", cure="Give (P, 2), or None", index=at)
            parsed.append(own.reshape(-1, 2))
    for at, own in enumerate(parsed):
        for place, (x, y) in enumerate(own):
            if not (np.isfinite(x) and np.isfinite(y)):
                point = f"point {place} of prompt {at} is ({x:g}, {y:g})"
                raise PromptError(point, where="points", cure="Give finite numbers", index=at)
    return parsed


def check_inside(points: list[Numbers], labels: list[IntArray], geometry: ImageGeometry) -> None:
    """Raise PromptError for a point outside the image, except for padding (label -1)."""
    for at, (own, kinds) in enumerate(zip(points, labels, strict=True)):
        for place, ((x, y), kind) in enumerate(zip(own, kinds, strict=True)):
            if kind != PADDING and not (0 <= x <= geometry.width and 0 <= y <= geometry.height):
                point = f"point {place} of prompt {at} is ({x:g}, {y:g})"
                raise _outside(point, "(x, y)", "points", geometry, at)


def read_labels(labels: PromptLike | None, points: list[Numbers]) -> list[IntArray]:
    """Return the labels of each prompt: int32 ``[P]``, all 1 if none are given.

    Raises:
        PromptError: Their number differs from that of the points, or they are not 0, 1 or -1.
    """
    sizes = [len(own) for own in points]
    if labels is None:
        return [np.ones(size, np.int32) for size in sizes]
    rows = _label_rows(labels, len(points))
    have = [len(row) for row in rows]
    if have != sizes:
        counts = f"{sum(have)} labels for {sum(sizes)} points"
        if sum(have) == sum(sizes):
            counts = f"{have} labels for {sizes} points"
        raise PromptError(
            f"labels do not match the points: {counts}",
            where="labels",
            cure="Give one label per point: (N,) for points (N, 2), (N, P) for points (N, P, 2)",
            labels=sum(have),
            points=sum(sizes),
        )
    for at, row in enumerate(rows):
        for place, value in enumerate(row):
            if value in (PADDING, 0, 1):
                continue
            cure = "Give 1 for foreground, 0 for background"
            if value in (2, 3):
                cure = "2 and 3 are the corners of a box: give boxes= instead"
            label = f"the label of point {place} of prompt {at} is {value:g}"
            raise PromptError(label, where="labels", cure=cure, index=at)
    return [row.astype(np.int32) for row in rows]


def _label_rows(labels: PromptLike, prompts: int) -> list[Numbers]:
    whole = _numbers(labels, "labels")
    if whole is None:
        own = [np.empty(0) if entry is None else _numbers(entry, "labels") for entry in _entries(labels, "labels")]
        return [np.empty(0) if row is None else row.reshape(-1) for row in own]
    if whole.ndim > 2:
        raise PromptError(f"invalid labels of shape {whole.shape}", where="labels", cure="Give (N,) or (N, P)")
    if whole.ndim == 2:
        return list(whole)
    # One dimension: the labels of the only prompt, or one label for each of many.
    return [whole.reshape(-1)] if prompts == 1 else list(whole.reshape(-1, 1))


def read_boxes(boxes: PromptLike, geometry: ImageGeometry) -> list[Numbers | None]:
    """Return the box of each prompt: float64 ``[4]`` clipped to the image, or None.

    Raises:
        PromptError: The shape is wrong, or a box is not finite, inverted or outside the image.
    """
    whole = _numbers(boxes, "boxes")
    if whole is not None:
        if whole.shape[:1] == (0,):
            return []
        if whole.ndim not in (1, 2) or whole.shape[-1] != 4:
            cure = "Give [x1, y1, x2, y2] or (N, 4)"
            raise PromptError(f"invalid boxes of shape {whole.shape}", where="boxes", cure=cure)
        parsed: list[Numbers | None] = list(whole.reshape(-1, 4))
    else:
        parsed = []
        for at, entry in enumerate(_entries(boxes, "boxes")):
            own = None if entry is None else _numbers(entry, f"boxes[{at}]")
            if entry is not None and (own is None or own.shape != (4,)):
                raise PromptError("not a box", where=f"boxes[{at}]", cure="Give [x1, y1, x2, y2]", index=at)
            parsed.append(own)
    limits = np.array([geometry.width, geometry.height] * 2, np.float64)
    for at, box in enumerate(parsed):
        if box is None:
            continue
        text = f"box {at} is ({', '.join(f'{value:g}' for value in box)})"
        if not np.isfinite(box).all():
            raise PromptError(text, where="boxes", cure="Give finite numbers", index=at)
        if box[0] > box[2] or box[1] > box[3]:
            cure = "Give the top left corner first: x1, y1, x2, y2"
            raise PromptError(f"{text}, which is inverted", where="boxes", cure=cure, index=at)
        if (box[2:] < 0).any() or (box[:2] > limits[:2]).any():
            raise _outside(text, "x1, y1, x2, y2", "boxes", geometry, at)
        parsed[at] = np.clip(box, 0, limits)
    return parsed


def _outside(text: str, coordinates: str, where: str, geometry: ImageGeometry, at: int) -> PromptError:
    return PromptError(
        f"{text}, outside the image of {geometry.width} x {geometry.height} px",
        where=where,
        cure=f"Give {coordinates} in px of the original image",
        index=at,
    )


def read_masks(masks: PromptLike, geometry: ImageGeometry, side: int) -> list[FloatArray | None]:
    """Return the mask of each prompt: float32 ``[side, side]`` logits, or None.

    Raises:
        PromptError: A mask is neither low-resolution logits nor a mask of the image's size.
    """
    try:
        if isinstance(masks, (list, tuple)):
            entries = [None if entry is None else np.asarray(entry) for entry in masks]
            if entries and all(entry is not None and entry.ndim == 1 for entry in entries):
                entries = [np.asarray(masks)]  # one mask, written as a list of rows
        else:
            whole = np.asarray(masks)
            entries = list(whole) if whole.ndim > 2 else [whole]
    except ValueError as error:
        raise PromptError("the rows of a mask differ in length", where="masks", cure="Give arrays") from error
    return [None if entry is None else _read_mask(entry, at, geometry, side) for at, entry in enumerate(entries)]


def _read_mask(mask: NDArray[Any], at: int, geometry: ImageGeometry, side: int) -> FloatArray:
    where = f"masks[{at}]"
    if mask.ndim == 3 and len(mask) == 1:
        mask = mask[0]  # the channel axis required by Meta's predictor
    size = (geometry.height, geometry.width)
    cure = f"Give low-resolution logits, float {(side, side)}, or a mask of the image, bool or uint8 {size}"
    if mask.dtype.kind == "f":
        if mask.shape != (side, side):
            raise PromptError(f"invalid logits of shape {mask.shape}", where=where, cure=cure, index=at)
        if not (np.abs(mask) <= _MOST_LOGIT).all():  # NaN is not less either
            cure = "Give the low_res_masks of an earlier prediction"
            raise PromptError(f"logits beyond {_MOST_LOGIT:g}, or NaN", where=where, cure=cure, index=at)
        return mask.astype(np.float32)
    if mask.dtype.kind not in "bui":
        raise PromptError(f"invalid mask dtype {mask.dtype}", where=where, cure=cure, index=at)
    if mask.shape != size:
        raise PromptError(f"invalid mask shape {mask.shape}", where=where, cure=cure, index=at)
    return mask_to_logits(mask != 0, geometry, side)


def mask_to_logits(mask: BoolArray, geometry: ImageGeometry, side: int) -> FloatArray:
    """Return a mask of the image as low-resolution logits, the form in which SAM takes masks as prompts.

    The mask, bool ``[H, W]``, is resized and placed like the image and averaged down to ``side``. Its coverage, 0 to 1,
    becomes a logit from -10 to 10, as in SAM 2 for masks that users draw; outside the image it is -10.
    """
    from PIL import Image

    square = np.zeros((geometry.image_size, geometry.image_size), np.uint8)
    square[: geometry.resized_height, : geometry.resized_width] = geometry.resize(mask.astype(np.uint8) * np.uint8(255))
    averaged = Image.fromarray(square).resize((side, side), Image.Resampling.BOX)
    coverage = np.asarray(averaged, np.float32) / np.float32(255)
    return (np.float32(2) * coverage - np.float32(1)) * _PROMPT_LOGIT


def _numbers(values: object, where: str) -> Numbers | None:
    """Return an array of float64, or None for a ragged list or one with None in it."""
    if isinstance(values, (list, tuple)) and any(value is None for value in values):
        return None  # numpy would convert None to NaN
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        if "inhomogeneous" in str(error):
            return None
        raise PromptError(f"not numbers: {error}", where=where, cure="Give numbers or an array") from error


def _entries(values: object, where: str) -> Sequence[Any]:
    if isinstance(values, (list, tuple)):
        return values
    raise PromptError(f"a {type(values).__name__} cannot hold one entry per prompt", where=where, cure="Give a list")
