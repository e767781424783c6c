"""Which rows and columns of an image a mask takes, so that other work stays inside them. Knows numpy alone."""

from __future__ import annotations

import numpy as np

from samedge.types import BoolArray


def mask_extent(mask: BoolArray) -> tuple[slice, slice] | None:
    """Returns the rows and the columns of the smallest box around a mask, or None if the mask is empty.

    Args:
        mask: bool ``[H, W]``.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    inside = slice(int(rows[0]), int(rows[-1]) + 1)
    columns = np.flatnonzero(mask[inside].any(axis=0))
    return inside, slice(int(columns[0]), int(columns[-1]) + 1)
