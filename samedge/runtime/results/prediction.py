"""A prediction: low-resolution logits, scores, and masks at image size on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.masks.masks import draw_mask, empty_masks, mask_box
from samedge.types import BoolArray, FloatArray


@dataclass(frozen=True, eq=False)
class Prediction:
    """K masks, in the order of the prompts.

    Attributes:
        low_res_logits: float32 ``[K, side, side]``; each can be given as a mask prompt for refinement.
        scores: float32 ``[K]``, predicted IoU of each mask.
        prompt_index: int ``[K]``, index of the prompt of each mask.
        mask_index: int ``[K]``, index among the decoder's masks: 0, or 1 and up with ``multimask``.
        geometry: Geometry of the image.
        mask_threshold: A pixel belongs to a mask if its logit is greater.
        speed: Milliseconds for "preprocess", "inference" (encoder and decoder) and "postprocess", which excludes
            drawing masks on demand.
    """

    low_res_logits: FloatArray
    scores: FloatArray
    prompt_index: NDArray[np.intp]
    mask_index: NDArray[np.intp]
    geometry: ImageGeometry
    mask_threshold: float = 0.0
    speed: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.scores)

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the masks, px."""
        return self.geometry.height, self.geometry.width

    @cached_property
    def masks(self) -> BoolArray:
        """The masks at image size, bool ``[K, H, W]``; drawn once, on first use.

        Raises:
            UsageError: There is not enough memory for all of them at once.
        """
        masks = empty_masks(len(self), *self.image_shape)
        for logits, mask in zip(self.low_res_logits, masks, strict=True):
            draw_mask(logits, self.geometry, self.mask_threshold, mask)
        return masks

    def iter_masks(self) -> Iterator[BoolArray]:
        """Yield the masks one by one, bool ``[H, W]`` each, keeping none."""
        for logits in self.low_res_logits:
            mask = np.empty(self.image_shape, np.bool_)
            draw_mask(logits, self.geometry, self.mask_threshold, mask)
            yield mask

    @cached_property
    def boxes(self) -> FloatArray:
        """Tight boxes of the masks, float32 ``[K, 4]``, computed without drawing them.

        (x1, y1, x2, y2): first and last column and row of each mask in px, zeros for an empty mask.
        """
        boxes = [mask_box(logits, self.geometry, self.mask_threshold) for logits in self.low_res_logits]
        return np.stack(boxes) if boxes else np.zeros((0, 4), np.float32)

    def resized(self, height: int, width: int) -> Prediction:
        """Return the prediction for a resized copy of the image, drawn from the same logits."""
        return replace(self, geometry=replace(self.geometry, height=height, width=width))

    def __getitem__(self, index: int | slice | NDArray[np.bool_] | NDArray[np.intp] | list[int]) -> Prediction:
        """Return some of the masks."""
        chosen = np.arange(len(self))[index].reshape(-1)
        return Prediction(
            self.low_res_logits[chosen],
            self.scores[chosen],
            self.prompt_index[chosen],
            self.mask_index[chosen],
            self.geometry,
            self.mask_threshold,
            self.speed,
        )
