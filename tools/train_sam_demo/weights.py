"""Weights of sam_demo from a training run's moving average, or from packed safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from samedge.models.sam.load import load_model
from samedge.models.sam.sam import Sam
from tools.train_sam_demo.network import SAM_DEMO, build
from tools.train_sam_demo.train import CHECKPOINT


def averaged_weights(run: Path) -> tuple[dict[str, Tensor], int, dict[str, str]]:
    """Return a run's averaged weights, the number of its steps, and its settings as text.

    Args:
        run: The run's folder, or its checkpoint.
    """
    path = run / CHECKPOINT if run.is_dir() else run
    state = torch.load(path, map_location="cpu", weights_only=True)
    settings = {name: str(value) for name, value in state["settings"].items()}
    return state["ema"], state["step"], {**settings, "hours": f"{state['seconds'] / 3600:.2f}"}


def read_sam(source: Path) -> Sam:
    """Return the model of a run's folder, or of any checkpoint readable by samedge, in evaluation mode."""
    if source.is_dir() or source.name == CHECKPOINT:
        weights, _, _ = averaged_weights(source)
        sam = build(SAM_DEMO)
        sam.load_state_dict(weights)
        return sam.eval()
    return load_model(source).model.eval()
