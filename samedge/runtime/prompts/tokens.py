"""Conversion of points, labels, boxes and masks to the decoder's tokens.

Many prompts are given at once, as arrays with one row per prompt or as lists with one entry per prompt (None if a
prompt has no box, for example). Prompts with equal numbers of tokens form one group, because padding short ones would
change their masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samedge.errors import PromptError
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.prompts.shapes import (
    PADDING,
    PromptLike,
    check_inside,
    read_boxes,
    read_labels,
    read_masks,
    read_points,
)
from samedge.types import FloatArray, IntArray

_CORNERS: Final = np.array([2, 3], np.int32)


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """A group of B prompts of T tokens each."""

    index: NDArray[np.intp]
    """``[B]``: the position of each prompt in the input order."""
    coords: FloatArray
    """``[B, T, 2]``: (x, y) in px of the resized image."""
    labels: IntArray
    """int32 ``[B, T]``: 1 foreground, 0 background, 2 and 3 box corners, -1 padding."""
    masks: FloatArray | None
    """Logits ``[B, side, side]``, or None if no prompt of the group has a mask."""
    has_mask: FloatArray
    """``[B]``: 1 for prompts with a mask."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> PromptGroup:
        """Return some of the prompts; a slice copies nothing."""
        masks = None if self.masks is None else self.masks[rows]
        return PromptGroup(self.index[rows], self.coords[rows], self.labels[rows], masks, self.has_mask[rows])

    def chunks(self, size: int) -> Iterator[PromptGroup]:
        """Yield the same prompts, at most ``size`` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """All prompts of one call, each in one of the groups."""

    count: int
    groups: tuple[PromptGroup, ...]


def parse_prompts(
    geometry: ImageGeometry,
    mask_side: int,
    *,
    points: PromptLike | None = None,
    labels: PromptLike | None = None,
    boxes: PromptLike | None = None,
    masks: PromptLike | None = None,
) -> PromptBatch:
    """Check prompts, as of `Predictor.predict`, and convert them to tokens, as Meta's `SamPredictor` does.

    A prompt without a box gets one padding token after its points; a box follows the points as its two corners; a
    prompt that is only a mask has no tokens. Label -1 makes a point a padding token. `mask_side` is that of the
    decoder's ``mask_input``.

    Raises:
        PromptError: A prompt is invalid; the message names it and the reason.
    """
    if labels is not None and points is None:
        raise PromptError("labels were given without points", where="labels", cure="Give points= as well")
    parsed_points = None if points is None else read_points(points)
    parsed_labels = None if parsed_points is None else read_labels(labels, parsed_points)
    parsed_boxes = None if boxes is None else read_boxes(boxes, geometry)
    parsed_masks = None if masks is None else read_masks(masks, geometry, mask_side)
    given = {"points": parsed_points, "boxes": parsed_boxes, "masks": parsed_masks}
    counts = {name: len(entries) for name, entries in given.items() if entries is not None}
    if not counts:
        raise PromptError("no prompt given", cure="Give points=, boxes= or masks=")
    if len(set(counts.values())) > 1:
        cure = "Give one entry per prompt in each, or None if a prompt has none"
        if counts.get("points", 0) > 1 and 1 in counts.values():
            cure = "To give one prompt several points, write points=[[[x, y], [x, y]]]"
        raise PromptError(
            f"{' and '.join(f'{count} {name}' for name, count in counts.items())} do not match", cure=cure, **counts
        )
    count = next(iter(counts.values()))
    if parsed_points is not None and parsed_labels is not None:
        check_inside(parsed_points, parsed_labels, geometry)
    tokens: dict[int, list[tuple[int, FloatArray, IntArray]]] = {}
    for at in range(count):
        box = None if parsed_boxes is None else parsed_boxes[at]
        mask = None if parsed_masks is None else parsed_masks[at]
        xy = np.empty((0, 2)) if parsed_points is None else parsed_points[at]
        kinds = np.empty(0, np.int32) if parsed_labels is None else parsed_labels[at]
        if not len(xy) and box is None and mask is None:
            raise PromptError(f"prompt {at} is empty", cure="Give it a point, a box or a mask", index=at)
        # The model ignores where padding lies, but graphs multiply it by 0, which infinity survives.
        coords = geometry.to_input(np.where((kinds == PADDING)[:, None], 0, xy))
        if box is not None:
            coords = np.concatenate([coords, geometry.to_input(box.reshape(2, 2))])
            kinds = np.concatenate([kinds, _CORNERS])
        elif len(xy):
            coords = np.concatenate([coords, np.zeros((1, 2), np.float32)])
            kinds = np.append(kinds, np.int32(PADDING))
        tokens.setdefault(len(kinds), []).append((at, coords, kinds))
    return PromptBatch(count, tuple(_group(entries, parsed_masks) for entries in tokens.values()))


def _group(entries: list[tuple[int, FloatArray, IntArray]], masks: list[FloatArray | None] | None) -> PromptGroup:
    index = np.array([at for at, _, _ in entries], np.intp)
    own = [None if masks is None else masks[at] for at in index]
    present = next((mask for mask in own if mask is not None), None)
    return PromptGroup(
        index=index,
        coords=np.stack([coords for _, coords, _ in entries]),
        labels=np.stack([kinds for _, _, kinds in entries]),
        masks=None if present is None else np.stack([np.zeros_like(present) if m is None else m for m in own]),
        has_mask=np.array([mask is not None for mask in own], np.float32),
    )
