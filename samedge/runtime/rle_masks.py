"""Masks that are kept as RLE and become pixels when they are asked for. Knows numpy alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from samedge.runtime.masks import empty_masks
from samedge.runtime.rle import Rle, decode_rle
from samedge.types import Array, BoolArray


@dataclass(frozen=True, eq=False)
class RleMasks:
    """N masks of the size of an image.

    Attributes:
        rles: One a mask.
        image_shape: (height, width) of the image, px.
    """

    rles: Sequence[Rle]
    image_shape: tuple[int, int]

    def __len__(self) -> int:
        """Number of masks."""
        return len(self.rles)

    @cached_property
    def masks(self) -> BoolArray:
        """The masks, bool ``[N, H, W]``; decoded once, at the first use.

        Raises:
            UsageError: There is not enough memory for all of them at once.
        """
        masks = empty_masks(len(self), *self.image_shape)
        for mask, pixels in zip(self.iter_masks(), masks, strict=True):
            pixels[:] = mask
        return masks

    def iter_masks(self) -> Iterator[BoolArray]:
        """Yields the masks one after the other, bool ``[H, W]`` each, and keeps none."""
        return map(decode_rle, self.rles)

    def __getitem__(self, index: int | slice | Array | Sequence[int]) -> RleMasks:
        """Some of the masks."""
        chosen = np.arange(len(self))[index].reshape(-1)
        return RleMasks([self.rles[at] for at in chosen.tolist()], self.image_shape)
