"""Geometry of a YOLO's input: the image resized without distortion, centred, the rest grey.

Two rules, both Ultralytics'. *Square*: the input has the size fixed by the graph, or a side of `imgsz`. *Rectangle*
(Ultralytics' ``rect`` or ``auto``), for graphs whose height and width are free: the padding is trimmed to the next
multiple of the stride, which saves up to half of the work on wide images. The two give slightly different boxes,
because the model sees a different border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from typing_extensions import Self

from samedge.runtime.image.read import opencv
from samedge.types import FloatArray, ImageArray

GREY: Final = 114
MAX_STRIDE: Final = 32


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Sizes of an image before and after resizing, and its position in the input, px."""

    height: int
    width: int
    input_height: int
    input_width: int
    resized_height: int
    resized_width: int
    top: int
    left: int

    @classmethod
    def of(
        cls, height: int, width: int, input_height: int, input_width: int, *, rect: bool, stride: int = MAX_STRIDE
    ) -> Self:
        """Return the letterbox of an image; with `rect`, the input is trimmed to the next multiple of the stride."""
        ratio = min(input_height / height, input_width / width)
        resized_height, resized_width = max(round(height * ratio), 1), max(round(width * ratio), 1)
        rows, columns = input_height - resized_height, input_width - resized_width
        if rect:
            rows, columns = rows % stride, columns % stride
        # An odd row of padding goes below: 0.1 breaks the tie.
        top, left = round(rows / 2 - 0.1), round(columns / 2 - 0.1)
        input_height, input_width = resized_height + rows, resized_width + columns
        return cls(height, width, input_height, input_width, resized_height, resized_width, top, left)

    def input(self, bgr: ImageArray) -> FloatArray:
        """Return the graph's input, float32 ``[1, 3, input_height, input_width]``, RGB 0..1, for a BGR uint8 image."""
        cv2 = opencv()
        if (self.height, self.width) != (self.resized_height, self.resized_width):
            bgr = cv2.resize(bgr, (self.resized_width, self.resized_height), interpolation=cv2.INTER_LINEAR)
        canvas = np.full((3, self.input_height, self.input_width), GREY, np.float32)
        bottom, right = self.top + self.resized_height, self.left + self.resized_width
        canvas[:, self.top : bottom, self.left : right] = bgr[..., ::-1].transpose(2, 0, 1)
        canvas /= np.float32(255)
        return canvas[None]

    def to_image(self, boxes: FloatArray) -> FloatArray:
        """Map boxes, float32 ``[N, 4]`` (x1, y1, x2, y2), from px of the input to px of the image, clipped to it."""
        size = np.array([self.width, self.height] * 2, np.float32)
        scale = np.array([self.resized_width, self.resized_height] * 2, np.float32) / size
        offset = np.array([self.left, self.top] * 2, np.float32)
        moved: FloatArray = np.clip((boxes - offset) / scale, 0, size)
        return moved
