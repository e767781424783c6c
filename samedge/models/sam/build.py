"""Construction of a SAM from its configuration, with weights still to be loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from samedge.models.sam.configs import IMAGENET, SamConfig
from samedge.models.sam.encoders.families import encoder_family
from samedge.models.sam.mask_decoder import MaskDecoder
from samedge.models.sam.prompt_encoder import PromptEncoder
from samedge.models.sam.sam import Sam

_RANDOM: Final = (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_, Tensor.uniform_, Tensor.normal_)


class _NoRandomNumbers(TorchFunctionMode):
    """Skips the initialisation of new weights: for ViT-H it takes longer than reading the file."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def empty_sam(config: SamConfig) -> Sam:
    """Return a SAM in evaluation mode with uninitialised weights: load a state dict strictly."""
    with _NoRandomNumbers():
        encoder = encoder_family(config.encoder.family).model().build(config.encoder)
        prompts = PromptEncoder(config.encoder, config.decoder)
        own = getattr(config.encoder, "normalisation", IMAGENET)
        sam = Sam(encoder, prompts, MaskDecoder(config.decoder), own)
    return sam.eval()


def weight_shapes(config: SamConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a SAM's weights by key, without allocating any."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in empty_sam(config).state_dict().items()}
