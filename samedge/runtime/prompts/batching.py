"""Few batch sizes for engines that prepare for each: CUDA graphs, and runtimes that tune themselves for a shape.

The number of prompts is padded to the next power of two with copies of the last prompt, whose results are dropped.
Prompts do not influence each other, so the other masks are unchanged. The number of points of a prompt is never padded:
a padding point is one more token, which the others attend to, and changes masks.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from samedge.engines.protocol import Engine
from samedge.runtime.prompts.tokens import PromptGroup
from samedge.types import TensorSpec


def bucket_of(count: int, most: int | None = None) -> int:
    """Return the next power of two, at most ``most``; 0 stays 0.

    Args:
        count: Number of prompts.
        most: Upper limit, at least ``count``; None for no limit.
    """
    bucket = 1 << (count - 1).bit_length() if count else 0
    return bucket if most is None else max(count, min(bucket, most))


def bucketed(group: PromptGroup, engine: Engine, most: int | None) -> PromptGroup:
    """Return a group in the batch size for an engine: padded to a bucket on a device, unchanged elsewhere.

    Args:
        group: One prompt or more.
        engine: The engine that will run it.
        most: Most prompts that it accepts; None for no limit.
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
    """Return rows of a batch, padded to a bucket by repeating the last.

    Args:
        rows: Positions in the batch.
        most: Size of the batch.
    """
    return rows + rows[-1:] * (bucket_of(len(rows), max(most, len(rows))) - len(rows))


def most_of_axis(engine: Engine, name: str) -> int | None:
    """Return the limit of the first axis of an input, or None."""
    axis = engine.inputs[name].shape[0]
    limits = engine.axis_limits.get(axis) if isinstance(axis, str) else (axis, axis)
    return None if limits is None else limits[1]


MOST: Final = 16
"""Enough to keep an accelerator busy, and, for images with few tokens, to keep the steps of a call large enough to be
worth their start."""
CPU_IMAGE_TOKENS: Final = 16384
"""Limit on a CPU, image tokens of all prompts together. A prompt on SAM's 4096 tokens has large enough steps: one at a
time or 16, each takes as long. 16 need 850 MB in all, 4 need 315 (onnxruntime, one thread)."""


def prompts_at_once(device: str, embedding: TensorSpec) -> int:
    """Return the number of prompts for one call of the decoder.

    Args:
        device: Device of the decoder.
        embedding: Spec of image embeddings: ``[1, C, g, g]``.
    """
    rows, columns = embedding.shape[-2:]
    if device.partition(":")[0].lower() != "cpu" or not isinstance(rows, int) or not isinstance(columns, int):
        return MOST
    return max(1, min(MOST, CPU_IMAGE_TOKENS // (rows * columns)))
