"""Snapping of FastSAM's boxes to the image border, on the host: it works with every export and every backend."""

from __future__ import annotations

from typing import Final

import numpy as np

from samedge.runtime.masks.nms import box_ious
from samedge.runtime.results.results import Results

_BORDER: Final = 20  # px
_WHOLE_IMAGE: Final = 0.9


def snap_to_border(results: Results) -> Results:
    """Move sides within 20 px of the border onto it; a box with an IoU above 0.9 with the image becomes the image."""
    if results.boxes is None:
        return results
    height, width = results.orig_shape
    data = results.boxes.data.copy()
    boxes, ends = data[:, :4], np.array([width, height], np.float32)
    boxes[:, :2][boxes[:, :2] < _BORDER] = 0
    boxes[:, 2:] = np.where(boxes[:, 2:] > ends - _BORDER, ends, boxes[:, 2:])
    whole = np.array([0, 0, width, height], np.float32)
    boxes[box_ious(whole, boxes) > _WHOLE_IMAGE] = whole
    snapped = results.new()
    snapped.update(data, results.masks, prompt_index=results.prompt_index)
    return snapped
