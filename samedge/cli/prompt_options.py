"""Prompts on the command line: ``--point 10,20,0``, ``--box 1,2,3,4``, ``--mask FILE``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from samedge.errors import PromptError, UsageError
from samedge.runtime.everything.parameters import EverythingOptions, run_of
from samedge.runtime.image.read import read_image
from samedge.runtime.image.value_range import VALUE_RANGES, ValueRange
from samedge.storage.files import storage_errors


def parse_points(values: list[str]) -> tuple[list[list[float]], list[int]]:
    """Return the coordinates and labels of ``X,Y`` and ``X,Y,LABEL``; UsageError for other forms."""
    points, labels = [], []
    for value in values:
        numbers = _numbers(value, "--point", (2, 3), "--point 400,300 or, beside the object, --point 400,300,0")
        points.append(numbers[:2])
        label = numbers[2] if len(numbers) == 3 else 1.0
        if label not in (0, 1):
            what = f"invalid label {label:g} in {value!r}"
            raise UsageError(what, where="--point", cure="Give 1 (inside) or 0 (outside)")
        labels.append(int(label))
    return points, labels


def parse_boxes(values: list[str]) -> list[list[float]]:
    """Return the corners of ``X1,Y1,X2,Y2``; UsageError for other forms."""
    return [_numbers(value, "--box", (4,), "--box 100,80,500,420") for value in values]


def _numbers(text: str, option: str, counts: tuple[int, ...], example: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts or not np.isfinite(numbers).all():
        raise UsageError(f"invalid value {text!r}", where=option, cure=f"Write it like this: {example}")
    return numbers


def read_mask(path: Path) -> NDArray[Any]:
    """Read a mask prompt: 2-D low-resolution logits from ``.npy``, or an image that is black outside the mask."""
    if path.suffix != ".npy":
        brightest: NDArray[Any] = read_image(path).max(axis=2)
        return brightest > 0
    with storage_errors(path, "read"):
        try:
            mask: NDArray[Any] = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise PromptError(f"cannot read the mask: {error}", where=path, cure="Write it with numpy.save") from error
    if mask.ndim != 2:
        raise PromptError(f"the mask has {mask.ndim} axes", where=path, cure="Save one mask, (height, width)")
    return mask


def combine(
    points: list[list[float]], labels: list[int], boxes: list[list[float]], masks: list[NDArray[Any]], each_point: bool
) -> dict[str, Any]:
    """Return prompts as keyword arguments of `SAM.predict`; UsageError if they cannot be combined.

    All points of one command describe one object, together with the box and the mask, if any. Otherwise each box, mask
    and, with ``--each-point``, point is a prompt: the first box then belongs to the first mask and the first point, and
    so on.
    """
    prompts: dict[str, Any] = {}
    if each_point and not points:
        raise UsageError("no point given", where="--each-point", cure="Give --point as well")
    if points and not each_point:
        prompts |= {"points": [points], "labels": [labels]}
        for option, count in (("boxes", len(boxes)), ("masks", len(masks))):
            if count > 1:
                raise UsageError(
                    f"{count} {option} given, but all points describe one object",
                    where="--point",
                    cure="Give one, or as many points with --each-point, or run the command once per object",
                )
    elif points:
        prompts |= {"points": [[point] for point in points], "labels": [[label] for label in labels]}
    if boxes:
        prompts["bboxes"] = boxes
    if masks:
        prompts["masks"] = masks
    counts = {name: len(prompts[name]) for name in ("points", "bboxes", "masks") if name in prompts}
    if len(set(counts.values())) > 1:
        options = {"points": "--point", "bboxes": "--box", "masks": "--mask"}
        raise UsageError(
            " and ".join(f"{count} times {options[name]}" for name, count in counts.items()) + " do not match",
            cure="Give as many of each, or run the command once per object",
        )
    return prompts


def given_options(**options: object) -> EverythingOptions:
    """Return the options that are not None."""
    return cast("EverythingOptions", {name: value for name, value in options.items() if value is not None})


def check_request(prompts: Mapping[str, Any], options: EverythingOptions, *, multimask: bool) -> None:
    """Validate options and their combination with the prompts, before anything is opened."""
    if prompts and options:
        option = f"--{next(iter(options)).replace('_', '-')}"
        raise UsageError("applies to segmenting everything, not to prompts", where=option, cure="Give one or the other")
    if multimask and not prompts:
        raise UsageError("no prompt given", where="--multimask", cure="Give --point, --box or --mask as well")
    run_of(options)


@contextmanager
def shown_search(options: EverythingOptions) -> Iterator[EverythingOptions]:
    """Yield the options with a progress callback, which draws a bar on a terminal and nothing elsewhere."""
    from samedge.cli.progress import shown_progress

    with shown_progress(lines=False) as progress:
        progress("Encoding the image", 0.0)
        yield {**options, "progress": progress}


def parse_value_range(text: str | None) -> ValueRange:
    """Return the value range of "LOW,HIGH", "full" or "image".

    Raises:
        UsageError: It is none of these.
    """
    if text is None:
        return None
    for name in VALUE_RANGES:
        if text == name:
            return name
    try:
        low, high = (float(limit) for limit in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        cure = "Give LOW,HIGH such as 0,4095; or full; or image"
        raise UsageError(f"invalid value range {text!r}", where="--value-range", cure=cure)
    return low, high
