"""Batch norms folded into the convolutions before them, so that no graph and no module has any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

BATCH_NORM_EPS: Final = 1e-5


def fold_batch_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights with every batch norm merged into the convolution before it.

    Args:
        state: Weights in which ``X.c.weight`` and ``X.bn.*`` are a convolution without bias and its batch norm in
            evaluation mode. Weights that have none are returned as they are.

    Returns:
        The same with ``X.weight`` and ``X.bias`` in their place, float32.
    """
    folded = {}
    for key, value in state.items():
        name, dot, last = key.rpartition(".bn.")
        if dot and f"{name}.c.weight" in state:
            if last != "weight":
                continue
            # In float64: the convolution's rounding stays the only difference from two steps.
            mean, var, bias = (state[f"{name}.bn.{part}"].double() for part in ("running_mean", "running_var", "bias"))
            scale = value.double() / torch.sqrt(var + BATCH_NORM_EPS)
            kernel = state[f"{name}.c.weight"].double()
            folded[f"{name}.weight"] = (kernel * scale.reshape(-1, 1, 1, 1)).float()
            folded[f"{name}.bias"] = (bias - mean * scale).float()
        elif not (key.endswith(".c.weight") and f"{key.removesuffix('.c.weight')}.bn.weight" in state):
            folded[key] = value
    return folded
