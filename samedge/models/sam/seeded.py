"""Random weights from a seed, under the keys and shapes of real checkpoints, for tests and demonstrations.

The masks mean nothing, but the numbers behave like a trained model's: every bias, norm, relative position and batch
norm has an effect, activations keep their scale through the depth, mask logits cross zero, and predicted IoUs lie
within 0..1.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from samedge.errors import UsageError
from samedge.models.sam.build import weight_shapes
from samedge.models.sam.configs import SamConfig
from samedge.models.sam.encoders.families import encoder_family, known_configs

_RESIDUAL_ENDS = ("attn.proj.weight", "mlp.lin2.weight", "mlp.fc2.weight")


def seeded_config(name: str) -> SamConfig:
    """Return the configuration of a name such as "sam_vit_b" or "mobile_sam".

    Raises:
        UsageError: It is unknown.
    """
    known = known_configs()
    if name not in known:
        raise UsageError(f"there are no seeded weights for {name!r}", cure=f"Choose one of: {', '.join(sorted(known))}")
    return known[name]


def seeded_state(model: str | SamConfig, seed: int = 0) -> dict[str, Tensor]:
    """Return a state dict as the reference package has it: float32, and int64 for the counters of batch norms.

    Args:
        model: A configuration or its name.
        seed: Determines each tensor together with its key, whatever the other keys.

    Raises:
        UsageError: The name is unknown.
    """
    config = seeded_config(model) if isinstance(model, str) else model
    shapes = weight_shapes(config)
    shapes = encoder_family(config.encoder.family).model().seeded_shapes(shapes, config.encoder)
    return {key: _fill(key, shape, config, seed) for key, shape in shapes.items()}


def _fill(key: str, shape: tuple[int, ...], config: SamConfig, seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(1000)
    if key.endswith("running_var"):
        return torch.empty(shape).uniform_(0.5, 1.5, generator=generator)
    mean, spread = _mean_and_spread(key, shape, config)
    return torch.empty(shape).normal_(mean, spread, generator=generator)


def _mean_and_spread(key: str, shape: tuple[int, ...], config: SamConfig) -> tuple[float, float]:
    last = f"mask_decoder.iou_prediction_head.layers.{config.decoder.iou_head_depth - 1}"
    if key == f"{last}.bias":
        return 0.7, 0.05
    if key == f"{last}.weight":
        return 0.0, 0.1 / math.sqrt(shape[1])
    if key.endswith(("rel_pos_h", "rel_pos_w")):
        return 0.0, 1 / math.sqrt(shape[-1])  # from queries of unit variance, logits of unit variance
    if key.endswith("pos_embed"):
        return 0.0, 0.5
    if key.endswith("attention_biases"):
        return 0.0, 0.5
    if len(shape) == 1:
        return (1.0 if key.endswith("weight") else 0.0), 0.1
    if (
        key.endswith(("_embed.weight", "_token.weight", "_tokens.weight", "gaussian_matrix"))
        or "point_embeddings" in key
    ):
        return 0.0, 1.0
    fan_in = shape[0] if "output_upscaling" in key else math.prod(shape[1:])
    gain = 1.0
    if key.startswith("image_encoder.") and key.endswith(_RESIDUAL_ENDS):
        gain = 1 / math.sqrt(config.encoder.residual_blocks)
    return 0.0, gain / math.sqrt(fan_in)
