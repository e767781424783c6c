"""Masks: the masks of results as arrays, polygons and RLE. Drawn or decoded on first use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from samedge.errors import UsageError
from samedge.runtime.masks.masks import empty_masks
from samedge.runtime.masks.polygons import Parts, mask_to_polygons
from samedge.runtime.masks.rle import Rle, decode_rle, encode_rle
from samedge.runtime.results.boxes import Boxes, Selection, selected_rows
from samedge.runtime.results.host_array import HostArrays, HostBools, host_bools
from samedge.runtime.results.prediction import Prediction
from samedge.types import Array, BoolArray, FloatArray, ImageArray


@dataclass(frozen=True, eq=False)
class RleMasks:
    """N masks at image size, whose (height, width) in px is `image_shape`."""

    rles: Sequence[Rle]
    image_shape: tuple[int, int]

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.rles)

    @cached_property
    def masks(self) -> BoolArray:
        """The masks, bool ``[N, H, W]``; decoded once, on first use.

        Raises:
            UsageError: There is not enough memory for all of them at once.
        """
        masks = empty_masks(len(self), *self.image_shape)
        for mask, pixels in zip(self.iter_masks(), masks, strict=True):
            pixels[:] = mask
        return masks

    def iter_masks(self) -> Iterator[BoolArray]:
        """Yield the masks one by one, bool ``[H, W]`` each, keeping none."""
        return map(decode_rle, self.rles)

    def __getitem__(self, index: int | slice | Array | Sequence[int]) -> RleMasks:
        """Return some of the masks."""
        chosen = np.arange(len(self))[index].reshape(-1)
        return RleMasks([self.rles[at] for at in chosen.tolist()], self.image_shape)


_LAZY: Final = (Prediction, RleMasks)


class Masks(HostArrays):
    """N masks at image size, of which `orig_shape` is the (height, width), px.

    Args:
        masks: bool ``[N, H, W]`` or ``[H, W]``; or a prediction or RLEs, drawn or decoded on first use.
        orig_shape: Expected (height, width) of the masks, px.

    Raises:
        UsageError: The masks have another shape or dtype.
    """

    def __init__(self, masks: BoolArray | Prediction | RleMasks, orig_shape: tuple[int, int] | None = None) -> None:
        if isinstance(masks, _LAZY):
            self._masks: BoolArray | Prediction | RleMasks = masks
            shape = masks.image_shape
        else:
            array = np.asarray(masks)
            array = array[None] if array.ndim == 2 else array
            if array.ndim != 3 or array.dtype != np.bool_:
                raise UsageError(
                    f"invalid masks of shape {array.shape} and dtype {array.dtype}",
                    cure="Give (N, H, W) of dtype bool",
                    shape=array.shape,
                )
            self._masks = array
            shape = (array.shape[1], array.shape[2])
        if orig_shape is not None and tuple(orig_shape) != shape:
            raise UsageError(
                f"masks are {shape[1]} x {shape[0]} px, but the image is {orig_shape[1]} x {orig_shape[0]} px",
                cure="Resize the masks to the image first",
            )
        self.orig_shape = shape

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self._masks)

    def __getitem__(self, selection: Selection) -> Masks:
        """Return some of the masks."""
        rows = selected_rows(len(self), selection)
        if isinstance(self._masks, _LAZY) and "masks" in self._masks.__dict__:
            return Masks(self._masks.masks[rows], self.orig_shape)  # already decoded
        return Masks(self._masks[rows], self.orig_shape)

    def __iter__(self) -> Iterator[Masks]:
        """Yield each mask as `Masks`."""
        return (self[at] for at in range(len(self)))

    def __repr__(self) -> str:
        return f"Masks({len(self)} of {self.orig_shape[1]} x {self.orig_shape[0]} px)"

    @property
    def data(self) -> HostBools:
        """The masks, bool ``[N, H, W]``; drawn on first use and then kept.

        Raises:
            UsageError: There is not enough memory for all of them at once; see `iter_masks`.
        """
        return host_bools(self._array)

    @property
    def _array(self) -> BoolArray:
        return self._masks.masks if isinstance(self._masks, _LAZY) else self._masks

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of `data`."""
        return (len(self), *self.orig_shape)

    def iter_masks(self) -> Iterator[BoolArray]:
        """Yield the masks, bool ``[H, W]`` each, without holding all of them in memory."""
        if isinstance(self._masks, _LAZY) and "masks" not in self._masks.__dict__:
            yield from self._masks.iter_masks()
        else:
            yield from self._array

    @property
    def xy(self) -> list[FloatArray]:
        """One polygon per mask, float32 ``[K, 2]``: (x, y) in px. One outline joins all parts; holes are dropped.

        For other treatments of parts see `polygons`; `to_rle` keeps holes. An empty mask has ``[0, 2]``.
        """
        return [polygons[0] if polygons else np.zeros((0, 2), np.float32) for polygons in self.polygons("merge")]

    @property
    def xyn(self) -> list[FloatArray]:
        """`xy` as shares of the image's width and height."""
        return [polygon / self._scale for polygon in self.xy]

    def polygons(self, parts: Parts = "all", *, normalize: bool = False) -> Iterator[list[FloatArray]]:
        """Yield the polygons of each mask, float32 ``[K, 2]``; an empty list for an empty mask.

        Args:
            parts: As in `mask_to_polygons`.
            normalize: Return shares of the image's width and height instead of px.
        """
        scale = self._scale if normalize else np.ones(2, np.float32)
        for mask in self.iter_masks():
            yield [polygon / scale for polygon in mask_to_polygons(mask, parts)]

    def to_rle(self) -> list[Rle]:
        """Return the masks in COCO's compressed form."""
        if isinstance(self._masks, RleMasks):
            return [*self._masks.rles]
        return [encode_rle(mask) for mask in self.iter_masks()]

    @property
    def _scale(self) -> FloatArray:
        return np.array(self.orig_shape[::-1], np.float32)


class Objects(Protocol):
    """Objects of one image: the part of `Results` used by records and drawings."""

    orig_img: ImageArray
    orig_shape: tuple[int, int]
    boxes: Boxes | None
    masks: Masks | None
    prompt_index: NDArray[np.intp]

    def name_of(self, index: int) -> str:
        """Return the name of a class."""
        ...
