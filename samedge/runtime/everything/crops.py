"""Meta's image crops for a second segmentation, and the masks cut by their edges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from samedge.types import BoolArray, FloatArray

_NEAR: Final = np.float32(20)  # px


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an image, px, without its right column and bottom row; layer 0 is the whole image, n its n-th part."""

    left: int
    top: int
    right: int
    bottom: int
    layer: int

    @property
    def width(self) -> int:
        """Columns, px."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Rows, px."""
        return self.bottom - self.top

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in px."""
        return self.left, self.top, self.right, self.bottom

    @property
    def xywh(self) -> tuple[int, int, int, int]:
        """(left, top, width, height) in px."""
        return self.left, self.top, self.width, self.height


def crops_of(height: int, width: int, layers: int, overlap_ratio: float) -> tuple[Crop, ...]:
    """Return the whole image and, for each further layer n, ``2 ** n`` overlapping crops along each side.

    `overlap_ratio` is the overlap of the first layer's crops, as a share of the image's short side.
    """
    crops = [Crop(0, 0, width, height, 0)]
    for layer in range(1, layers + 1):
        count: int = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / count))
        crop_width, crop_height = (math.ceil((overlap * (count - 1) + side) / count) for side in (width, height))
        lefts = [(crop_width - overlap) * at for at in range(count)]
        tops = [(crop_height - overlap) * at for at in range(count)]
        crops.extend(
            Crop(left, top, min(left + crop_width, width), min(top + crop_height, height), layer)
            for left, top in product(lefts, tops)
            # A few pixels cannot be cut in 16: the last crops would begin outside the image.
            if left < width and top < height
        )
    return tuple(crops)


def cut_by_crop(boxes: FloatArray, crop: Crop, height: int, width: int) -> BoolArray:
    """Return True for boxes ``[N, 4]``, px of the image, near an edge of the crop inside the image, bool ``[N]``.

    Their objects may continue beyond the crop.
    """
    near_crop = np.abs(boxes - np.array(crop.xyxy, np.float32)) <= _NEAR
    near_image = np.abs(boxes - np.array([0, 0, width, height], np.float32)) <= _NEAR
    return np.logical_and(near_crop, ~near_image).any(axis=1).reshape(-1)
