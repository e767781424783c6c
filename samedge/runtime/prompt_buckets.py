"""Few sizes of batches for engines that prepare themselves for each: CUDA graphs, and what a runtime tunes for a shape.

The number of prompts is filled up to the next power of two with copies of the last prompt, whose answers are dropped.
Prompts do not influence each other, so that the masks of the others stay what they are. The number of points of a
prompt is never filled up: a padding point is one token more, which the others attend to, and changes masks.
"""

from __future__ import annotations

import numpy as np

from samedge.engines.protocol import Engine
from samedge.runtime.prompts import PromptGroup


def bucket_of(count: int, most: int | None = None) -> int:
    """Returns the next power of two, or the most that may be if that is less; 0 stays 0.

    Args:
        count: Prompts.
        most: How many there may be, not less than ``count``; None for any number.
    """
    bucket = 1 << (count - 1).bit_length() if count else 0
    return bucket if most is None else max(count, min(bucket, most))


def bucketed(group: PromptGroup, engine: Engine, most: int | None) -> PromptGroup:
    """Returns a group as an engine should get it: on a device filled up to a bucket, elsewhere as it is.

    Args:
        group: One prompt or more.
        engine: That will run it.
        most: Prompts that it takes; None for any number.
    """
    more = bucket_of(len(group), most) - len(group)
    if not engine.on_device or not more:
        return group
    rows = np.concatenate([np.arange(len(group)), np.full(more, len(group) - 1)])
    return PromptGroup(
        index=group.index[rows],
        coords=group.coords[rows],
        labels=group.labels[rows],
        masks=None if group.masks is None else group.masks[rows],
        has_mask=group.has_mask[rows],
    )


def rows_of_bucket(rows: list[int], most: int) -> list[int]:
    """Returns rows of a batch, filled up to a bucket by repeating the last.

    Args:
        rows: Places in the batch.
        most: Size of the batch.
    """
    return rows + rows[-1:] * (bucket_of(len(rows), max(most, len(rows))) - len(rows))


def most_of_axis(engine: Engine, name: str) -> int | None:
    """Returns how long the first axis of an input may be; None where there is no limit."""
    axis = engine.inputs[name].shape[0]
    limits = engine.axis_limits.get(axis) if isinstance(axis, str) else (axis, axis)
    return None if limits is None else limits[1]
