"""How many prompts the decoder gets in one call, where nobody says."""

from __future__ import annotations

from typing import Final

from samedge.types import TensorSpec

MOST: Final = 16
"""Enough for an accelerator to be busy. Where an image has few tokens, as many keep the steps of a call from being too
small to be worth their start."""
CPU_IMAGE_TOKENS: Final = 16384
"""On a CPU, at most so many image tokens, those of all prompts together. The steps of a prompt on SAM's 4096 are long
enough: one at a time or 16, each takes as long. 16 need 850 MB in all, 4 need 315 (onnxruntime, one thread)."""


def prompts_at_once(device: str, embedding: TensorSpec) -> int:
    """Returns how many prompts the decoder should get at once.

    Args:
        device: Where it runs.
        embedding: What image embeddings are: ``[1, C, g, g]``.
    """
    rows, columns = embedding.shape[-2:]
    if device.partition(":")[0].lower() != "cpu" or not isinstance(rows, int) or not isinstance(columns, int):
        return MOST
    return max(1, min(MOST, CPU_IMAGE_TOKENS // (rows * columns)))
