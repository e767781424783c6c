"""Few sizes of batches for engines that prepare themselves for each: CUDA graphs, and what a runtime tunes for a shape.

The number of prompts is filled up to the next power of two with copies of the last prompt, whose answers are dropped.
Prompts do not influence each other, so that the masks of the others stay what they are. The number of points of a
prompt is never filled up: a padding point is one token more, which the others attend to, and changes masks.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from samedge.engines.protocol import Engine
from samedge.runtime.prompts.tokens import PromptGroup
from samedge.types import TensorSpec


def bucket_of(count: int, most: int | None = None) -> int:
    """Return the next power of two, or the most that may be if that is less; 0 stays 0.

    Args:
        count: Prompts.
        most: How many there may be, not less than ``count``; None for any number.
    """
    bucket = 1 << (count - 1).bit_length() if count else 0
    return bucket if most is None else max(count, min(bucket, most))


def bucketed(group: PromptGroup, engine: Engine, most: int | None) -> PromptGroup:
    """Return a group as an engine should get it: on a device filled up to a bucket, elsewhere as it is.

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
    """Return rows of a batch, filled up to a bucket by repeating the last.

    Args:
        rows: Places in the batch.
        most: Size of the batch.
    """
    return rows + rows[-1:] * (bucket_of(len(rows), max(most, len(rows))) - len(rows))


def most_of_axis(engine: Engine, name: str) -> int | None:
    """Return how long the first axis of an input may be; None where there is no limit."""
    axis = engine.inputs[name].shape[0]
    limits = engine.axis_limits.get(axis) if isinstance(axis, str) else (axis, axis)
    return None if limits is None else limits[1]


MOST: Final = 16
"""Enough for an accelerator to be busy. Where an image has few tokens, as many keep the steps of a call from being too
small to be worth their start."""
CPU_IMAGE_TOKENS: Final = 16384
"""On a CPU, at most so many image tokens, those of all prompts together. The steps of a prompt on SAM's 4096 are long
enough: one at a time or 16, each takes as long. 16 need 850 MB in all, 4 need 315 (onnxruntime, one thread)."""


def prompts_at_once(device: str, embedding: TensorSpec) -> int:
    """Return how many prompts the decoder should get at once.

    Args:
        device: Where it runs.
        embedding: What image embeddings are: ``[1, C, g, g]``.
    """
    rows, columns = embedding.shape[-2:]
    if device.partition(":")[0].lower() != "cpu" or not isinstance(rows, int) or not isinstance(columns, int):
        return MOST
    return max(1, min(MOST, CPU_IMAGE_TOKENS // (rows * columns)))
