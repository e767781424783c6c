"""Masks as weighted sums of prototypes, drawn at image size and cut to their boxes.

Ultralytics' ``retina_masks`` rule: prototypes are enlarged until the letterbox's padding is whole pixels, the padding
is cut off, the rest is resized to the image, and positive values inside the box are the mask. Both steps are bilinear,
so each box is drawn on its own, from the few prototype pixels under it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from samedge.errors import UsageError
from samedge.runtime.image.letterbox import Letterbox
from samedge.types import BoolArray, FloatArray

PROTOTYPE_STRIDE: Final = 4
_TILE: Final = 8192
"""Side of the largest piece that is drawn at once, px: OpenCV's warp stops at 32767."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """Mapping of rows or columns from prototypes to the image."""

    small: int
    """Prototype pixels."""
    factor: int
    """Factor of enlargement."""
    start: int
    """First enlarged pixel after the padding."""
    content: int
    """Number of enlarged pixels without the padding."""
    size: int
    """Number of pixels of the image."""

    @classmethod
    def of(cls, input_size: int, resized: int, size: int, factor: int) -> _Axis:
        small = input_size // PROTOTYPE_STRIDE
        content = max(round(resized * factor / PROTOTYPE_STRIDE), 1)
        return cls(small, factor, round((small * factor - content) / 2 - 0.1), content, size)

    def content_at(self, pixel: int) -> float:
        """Return the position of an image pixel among those without padding."""
        return (pixel + 0.5) * self.content / self.size - 0.5

    def under(self, pixels: slice) -> tuple[slice, slice]:
        """Return the content that encloses pixels of the image, and the prototype pixels that enclose that content."""
        first = max(math.floor(self.content_at(pixels.start)), 0)
        last = min(math.floor(self.content_at(pixels.stop - 1)) + 1, self.content - 1)
        low, high = (((edge + self.start) + 0.5) / self.factor - 0.5 for edge in (first, last))
        return slice(first, last + 1), slice(max(math.floor(low), 0), min(math.floor(high) + 2, self.small))


def draw_masks(prototypes: FloatArray, coefficients: FloatArray, boxes: FloatArray, letterbox: Letterbox) -> BoolArray:
    """Return masks at image size, bool ``[N, H, W]``, cut to their boxes ``[N, 4]`` (x1, y1, x2, y2 in image px).

    Prototypes are float32 ``[M, input_height / 4, input_width / 4]``, coefficients ``[N, M]``.

    Raises:
        UsageError: There is not enough memory for all of them.
    """
    shape = (len(boxes), letterbox.height, letterbox.width)
    try:
        masks = np.zeros(shape, np.bool_)
    except MemoryError as error:
        raise UsageError(
            f"{shape[0]} masks of {shape[2]} x {shape[1]} px need {np.prod(shape, dtype=np.float64) / 1e9:.1f} GB",
            cure="Raise conf or lower max_det, or make the image smaller",
        ) from error
    rows, columns = _axes(letterbox)
    logits = (coefficients @ prototypes.reshape(len(prototypes), -1)).reshape(-1, *prototypes.shape[1:])
    for small, box, mask in zip(logits, boxes, masks, strict=True):
        for down in _pixels(box[1], box[3], letterbox.height):
            for across in _pixels(box[0], box[2], letterbox.width):
                mask[down, across] = _enlarged(small, rows, down, columns, across) > 0
    return masks


def _axes(letterbox: Letterbox) -> tuple[_Axis, _Axis]:
    box = letterbox
    padding = (box.input_height - box.resized_height) | (box.input_width - box.resized_width)
    # The smallest of 1, 2 and 4 that makes half of both paddings whole pixels.
    factor = PROTOTYPE_STRIDE // math.gcd(PROTOTYPE_STRIDE, padding | padding // 2)
    return (
        _Axis.of(box.input_height, box.resized_height, box.height, factor),
        _Axis.of(box.input_width, box.resized_width, box.width, factor),
    )


def _pixels(first: float, last: float, size: int) -> list[slice]:
    """Return the pixels from `first` to below `last`, in tiles."""
    start, stop = max(0, math.ceil(first)), min(size, math.ceil(last))
    return [slice(at, min(at + _TILE, stop)) for at in range(start, stop, _TILE)]


def _enlarged(small: FloatArray, rows: _Axis, down: slice, columns: _Axis, across: slice) -> FloatArray:
    """Return the logits of the rows `down` and the columns `across` of the image, float32.

    `small` are the logits at the size of the prototypes.
    """
    import cv2

    (tall, high), (wide, broad) = rows.under(down), columns.under(across)
    part = small[high, broad]
    if rows.factor > 1:
        size = (part.shape[1] * columns.factor, part.shape[0] * rows.factor)
        part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_LINEAR), np.float32)
    top = tall.start + rows.start - high.start * rows.factor
    left = wide.start + columns.start - broad.start * columns.factor
    part = part[top : top + tall.stop - tall.start, left : left + wide.stop - wide.start]
    to_part = np.array(
        [
            [columns.content / columns.size, 0, columns.content_at(across.start) - wide.start],
            [0, rows.content / rows.size, rows.content_at(down.start) - tall.start],
        ]
    )
    drawn = cv2.warpAffine(
        part,
        to_part,
        (across.stop - across.start, down.stop - down.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(drawn, np.float32)
