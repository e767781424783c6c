"""Random weights from a seed, under the key names and shapes of real checkpoints.

For tests, and for demonstrations where there is neither a checkpoint nor a network. The masks mean nothing, but the
numbers behave like a trained model's: every bias, norm, relative position and batch norm does something, activations
keep their size through the depth, mask logits cross zero and predicted IoUs lie within 0..1.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from samedge.errors import UsageError
from samedge.models.sam.build import weight_shapes
from samedge.models.sam.configs import KNOWN_CONFIGS, SamConfig, TinyViTConfig, ViTConfig

_RESIDUAL_ENDS = ("attn.proj.weight", "mlp.lin2.weight", "mlp.fc2.weight")
_TINY_VIT_CLASSES = 1000


def seeded_config(name: str) -> SamConfig:
    """Return the configuration of a name such as "sam_vit_b" or "mobile_sam".

    Raises:
        UsageError: There is none of this name.
    """
    if name not in KNOWN_CONFIGS:
        raise UsageError(
            f"there are no seeded weights for {name!r}", cure=f"Choose one of: {', '.join(sorted(KNOWN_CONFIGS))}"
        )
    return KNOWN_CONFIGS[name]


def seeded_state(model: str | SamConfig, seed: int = 0) -> dict[str, Tensor]:
    """Return a state dict as `state_dict()` of the reference package has it, filled from a seed.

    Args:
        model: A configuration, or the name of one.
        seed: The same seed gives the same numbers, whatever the order or the other keys.

    Returns:
        Tensors by key: float32, and int64 for the counters of batch norms.

    Raises:
        UsageError: There is no model of this name.
    """
    config = seeded_config(model) if isinstance(model, str) else model
    shapes = weight_shapes(config)
    if isinstance(config.encoder, TinyViTConfig):
        shapes = _with_batch_norms(shapes, config.encoder)
    return {key: _fill(key, shape, config, seed) for key, shape in shapes.items()}


def _with_batch_norms(shapes: dict[str, tuple[int, ...]], encoder: TinyViTConfig) -> dict[str, tuple[int, ...]]:
    """Undo what `fold_batch_norms` does to the keys, and adds the classifier that MobileSAM carries unused."""
    unfolded: dict[str, tuple[int, ...]] = {}
    for key, shape in shapes.items():
        name = key.removesuffix(".weight")
        if not key.startswith("image_encoder.") or ".neck." in key:
            unfolded[key] = shape
        elif len(shape) == 4:
            unfolded[f"{name}.c.weight"] = shape
            for part in ("weight", "bias", "running_mean", "running_var"):
                unfolded[f"{name}.bn.{part}"] = shape[:1]
            unfolded[f"{name}.bn.num_batches_tracked"] = ()
        elif len(shapes.get(f"{key.removesuffix('.bias')}.weight", ())) != 4:
            unfolded[key] = shape
    width = encoder.embed_dims[-1]
    unfolded["image_encoder.norm_head.weight"] = unfolded["image_encoder.norm_head.bias"] = (width,)
    unfolded["image_encoder.head.weight"] = (_TINY_VIT_CLASSES, width)
    unfolded["image_encoder.head.bias"] = (_TINY_VIT_CLASSES,)
    return unfolded


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
        return 0.0, 1 / math.sqrt(shape[-1])  # a query of unit variance then gives a logit of unit variance
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
        encoder = config.encoder
        gain = 1 / math.sqrt(encoder.depth if isinstance(encoder, ViTConfig) else sum(encoder.depths))
    return 0.0, gain / math.sqrt(fan_in)
