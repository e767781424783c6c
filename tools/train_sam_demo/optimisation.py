"""Optimisers, the learning rate schedule, and the moving average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_MATRIX_PARTS = ("blocks.", "transformer.")


class Optimisers:
    """AdamW for everything, or Muon for the matrices of the transformers and AdamW for the rest.

    Muon (momentum with orthogonalised updates) is scaled to the step length of AdamW, so both share a learning rate.

    Args:
        modules: The modules to train.
        lr: Peak learning rate.
        weight_decay: Decoupled weight decay of matrices; vectors and embeddings have none.
        muon: Use Muon.
    """

    def __init__(self, modules: nn.Module, lr: float, weight_decay: float, *, muon: bool) -> None:
        named = [(name, p) for name, p in modules.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if p.ndim == 2 and name.endswith("weight") and _is_matrix(name)]
        chosen = {id(p) for p in matrices} if muon else set()
        rest = [(name, p) for name, p in named if id(p) not in chosen]
        decayed = [p for name, p in rest if p.ndim >= 2 and "embed" not in name and "token" not in name]
        ids = {id(p) for p in decayed}
        groups = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": [p for _, p in rest if id(p) not in ids], "weight_decay": 0.0},
        ]
        self.peak = lr
        self.all: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))]
        if muon:
            self.all.append(
                torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )

    def step(self, factor: float) -> None:
        """Make a step at a fraction of the peak learning rate, and clear the gradients."""
        for optimiser in self.all:
            for group in optimiser.param_groups:
                group["lr"] = self.peak * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        """Return the state of each optimiser."""
        return [optimiser.state_dict() for optimiser in self.all]

    def restore(self, states: list[dict[str, Any]]) -> None:
        """Restore the states returned by `state`."""
        for optimiser, state in zip(self.all, states, strict=True):
            optimiser.load_state_dict(state)


def _is_matrix(name: str) -> bool:
    return any(part in name for part in _MATRIX_PARTS)


def rate(step: int, steps: int, *, warm_up: int, decay_share: float) -> float:
    """Return the fraction of the peak learning rate at a step: a linear warm-up, a plateau, then a half cosine to 0.

    With a decay share of 1, this is a plain cosine. During the plateau, a run can be extended or shortened: until the
    decay begins, the steps so far do not depend on the planned total.
    """
    level_until = (1 - decay_share) * steps
    through = min(max((step - level_until) / max(decay_share * steps, 1), 0.0), 1.0)
    return min((step + 1) / warm_up, 1.0) * (0.5 + 0.5 * math.cos(math.pi * through))


class RunningMean:
    """An exponential moving average of a module's parameters and buffers.

    Args:
        module: The module that provides the initial values.
        decay: Weight of the past, after enough steps.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the mean towards the module's values, faster in early steps, which are soon outdated."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        current = module.state_dict()
        names = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.values[n] for n in names], [current[n].detach() for n in names], weight)
