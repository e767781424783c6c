"""Batch norms folded into the convolutions before them, so that no graph and no module has any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

BATCH_NORM_EPS: Final = 1e-5

_PARTS: Final = ("weight", "bias", "running_mean", "running_var")


def fold_batch_norms(
    state: Mapping[str, Tensor], *, convolution: str = "c", folded_name: str = "", eps: float = BATCH_NORM_EPS
) -> dict[str, Tensor]:
    """Return the weights with every batch norm merged into the convolution before it.

    Args:
        state: Weights in which ``X.c.weight`` and ``X.bn.*`` are a convolution without bias and its batch norm in
            evaluation mode. Weights that have none are returned as they are.
        convolution: Name of the convolution beside ``bn``, "c" above.
        folded_name: Name of the one convolution that is left, below ``X``; it is ``X`` itself if empty.
        eps: Of the batch norms.

    Returns:
        The same with ``X.weight`` and ``X.bias`` in their place, float32. Pairs that are not complete, or do not fit
        each other, stay as they are.
    """
    folded = dict(state)
    for key in state:
        name = key.removesuffix(f".{convolution}.weight")
        if name == key or not _is_pair(state, name, convolution):
            continue
        # In float64: the convolution's rounding stays the only difference from two steps.
        kernel = folded.pop(key).double()
        scale, bias, mean, var = (folded.pop(f"{name}.bn.{part}").double() for part in _PARTS)
        folded.pop(f"{name}.bn.num_batches_tracked", None)
        scale = scale / torch.sqrt(var + eps)
        merged = f"{name}.{folded_name}" if folded_name else name
        folded[f"{merged}.weight"] = (kernel * scale.reshape(-1, 1, 1, 1)).float()
        folded[f"{merged}.bias"] = (bias - mean * scale).float()
    return folded


def _is_pair(state: Mapping[str, Tensor], name: str, convolution: str) -> bool:
    kernel, norms = state[f"{name}.{convolution}.weight"], [state.get(f"{name}.bn.{part}") for part in _PARTS]
    return kernel.ndim == 4 and all(norm is not None and norm.shape == kernel.shape[:1] for norm in norms)
