"""Removal of small parts and holes of masks, as in Meta's generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from samedge.runtime.everything.candidates import Candidate, boxes_of
from samedge.runtime.masks.nms import nms
from samedge.runtime.masks.rle import decode_rle, encode_rle
from samedge.runtime.results.boxes import boxes_of_masks
from samedge.types import BoolArray


def clean_up(candidates: Sequence[Candidate], min_area: int, iou_threshold: float) -> list[Candidate]:
    """Return the masks without parts and holes of less than `min_area` px, and without those that now overlap others.

    Of masks whose boxes have an IoU above the threshold, unchanged ones are preferred; these come first.
    """
    cleaned: list[Candidate] = []
    unchanged: list[float] = []
    for candidate in candidates:
        mask = decode_rle(candidate.rle)
        filled = without_small_regions(mask, min_area, "holes")
        without = without_small_regions(mask if filled is None else filled, min_area, "islands")
        changed = filled if without is None else without
        unchanged.append(float(changed is None))
        if changed is None:
            cleaned.append(candidate)
        else:
            cleaned.append(replace(candidate, rle=encode_rle(changed), box=boxes_of_masks(changed[None])[0]))
    return [cleaned[row] for row in nms(boxes_of(cleaned), np.array(unchanged, np.float32), iou_threshold)]


def without_small_regions(mask: BoolArray, min_area: int, kind: Literal["holes", "islands"]) -> BoolArray | None:
    """Return the mask with holes of less than `min_area` px filled, or without such parts; None if it has none.

    Regions are 8-connected. If all parts are small, the largest is kept. The background counts as a hole.
    """
    import cv2

    regions = (~mask if kind == "holes" else mask).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(regions, connectivity=8)
    sizes = stats[1:, cv2.CC_STAT_AREA]  # the first is the rest
    small = sizes < min_area
    if not small.any():
        return None
    chosen = np.zeros(count, np.bool_)
    if kind == "holes":
        chosen[0] = True
        chosen[1:] = small
    elif small.all():
        chosen[1 + int(np.argmax(sizes))] = True
    else:
        chosen[1:] = ~small
    kept: BoolArray = chosen[labels]
    return kept
