"""Sizes of prompt encoder and mask decoder, read from the shapes of their weights."""

from __future__ import annotations

from typing import Final

from samedge.models.checkpoints.shapes import MisfitError, State, count_entries, shape_of
from samedge.models.sam.configs import DecoderConfig

DECODER_HEADS: Final = 8


def decoder_sizes(state: State) -> DecoderConfig:
    """Return the sizes of prompt encoder and mask decoder.

    Raises:
        MisfitError: A weight is missing or has a wrong shape.
    """
    transformer, iou_head = "mask_decoder.transformer.layers", "mask_decoder.iou_prediction_head.layers"
    sizes = DecoderConfig(
        dim=shape_of(state, "prompt_encoder.no_mask_embed.weight", 2)[1],
        mask_in_chans=shape_of(state, "prompt_encoder.mask_downscaling.3.weight", 4)[0],
        depth=count_entries(state, transformer),
        num_heads=DECODER_HEADS,
        mlp_dim=shape_of(state, f"{transformer}.0.mlp.lin1.weight", 2)[0],
        internal_dim=shape_of(state, f"{transformer}.0.cross_attn_token_to_image.q_proj.weight", 2)[0],
        num_mask_tokens=shape_of(state, "mask_decoder.mask_tokens.weight", 2)[0],
        iou_head_depth=count_entries(state, iou_head),
        iou_head_hidden_dim=shape_of(state, f"{iou_head}.0.weight", 2)[0],
    )
    if sizes.dim % DECODER_HEADS or sizes.internal_dim % DECODER_HEADS or sizes.mask_in_chans % 4:
        raise MisfitError("the channels of its mask decoder are not multiples of its heads")
    return sizes
