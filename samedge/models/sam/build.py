"""From sizes to modules: a SAM of a configuration, with weights still to be loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from samedge.models.sam.configs import SamConfig
from samedge.models.sam.encoders.families import encoder_family
from samedge.models.sam.mask_decoder import MaskDecoder
from samedge.models.sam.prompt_encoder import PromptEncoder
from samedge.models.sam.sam import Sam
from samedge.models.sam.two_way import TwoWayTransformer

_RANDOM: Final = (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_, Tensor.uniform_, Tensor.normal_)


class _NoRandomNumbers(TorchFunctionMode):
    """Leaves new weights as the allocator gives them: random numbers for ViT-H take longer than reading its file."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def empty_sam(config: SamConfig) -> Sam:
    """Return a SAM in evaluation mode whose weights are uninitialised memory: load a state dict strictly."""
    encoder, sizes = config.encoder, config.decoder
    with _NoRandomNumbers():
        sam = Sam(
            encoder_family(encoder.family).model().build(encoder),
            PromptEncoder(
                embed_dim=sizes.dim, image_size=encoder.image_size, grid=encoder.grid, mask_in_chans=sizes.mask_in_chans
            ),
            MaskDecoder(
                transformer=TwoWayTransformer(
                    depth=sizes.depth,
                    embedding_dim=sizes.dim,
                    num_heads=sizes.num_heads,
                    mlp_dim=sizes.mlp_dim,
                    internal_dim=sizes.internal_dim,
                ),
                transformer_dim=sizes.dim,
                num_mask_tokens=sizes.num_mask_tokens,
                iou_head_depth=sizes.iou_head_depth,
                iou_head_hidden_dim=sizes.iou_head_hidden_dim,
            ),
        )
    return sam.eval()


def weight_shapes(config: SamConfig) -> dict[str, tuple[int, ...]]:
    """Return key and shape of every weight of a SAM of this configuration, without allocating any."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in empty_sam(config).state_dict().items()}
