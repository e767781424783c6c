"""From the shapes of weights to the sizes of the model that they are of. The name of the file plays no part."""

from __future__ import annotations

import math
from typing import Final

from samedge.errors import UsageError
from samedge.models.checkpoints.shapes import MisfitError, State, _count, _shape
from samedge.models.sam.configs import DecoderConfig, TinyViTConfig, ViTConfig

DECODER_HEADS: Final = 8
TINY_VIT_STAGES: Final = 4
TINY_VIT_IMAGE_SIZE: Final = 1024


def vit_sizes(state: State, image_size: int | None) -> ViTConfig:
    """Return the sizes of a ViT image encoder.

    Args:
        state: The weights.
        image_size: What the user asked for, px; the weights have their own.

    Raises:
        MisfitError: A weight is absent or has an odd shape.
        UsageError: The weights are for another image size.
    """
    at = "image_encoder"
    embed_dim, _, patch_size, _ = _shape(state, f"{at}.patch_embed.proj.weight", 4)
    _, grid, width, _ = _shape(state, f"{at}.pos_embed", 4)
    if grid != width:
        raise MisfitError(f"its images are not square: {grid} x {width} tokens")
    if image_size not in {None, grid * patch_size}:
        raise UsageError(
            f"these weights are for images of {grid * patch_size} px, not {image_size} px",
            cure="Leave the image size out: it is in the weights",
            image_size=grid * patch_size,
        )
    depth = _count(state, f"{at}.blocks")
    rel_pos = [_shape(state, f"{at}.blocks.{i}.attn.rel_pos_h", 2) for i in range(depth)]
    if not rel_pos or embed_dim % rel_pos[0][1]:
        raise MisfitError("its attention has no whole number of heads")
    return ViTConfig(
        image_size=grid * patch_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=embed_dim // rel_pos[0][1],
        mlp_dim=_shape(state, f"{at}.blocks.0.mlp.lin1.weight", 2)[0],
        window_sizes=window_sizes([length for length, _ in rel_pos], grid),
        out_chans=_shape(state, f"{at}.neck.0.weight", 4)[0],
    )


def window_sizes(lengths: list[int], grid: int) -> tuple[int, ...]:
    """Return the window of each block, 0 for global attention, from the lengths of its tables of relative positions.

    A table for a side of n tokens has 2 n - 1 rows. A fine-tune at another image size may have kept the tables of
    global attention as they were (Meta's code interpolates them): then the longest tables are the global ones.

    Args:
        lengths: One entry a block.
        grid: Side of the token grid.
    """
    whole = 2 * grid - 1
    if whole not in lengths and len(set(lengths)) > 1:
        whole = max(lengths)
    return tuple(0 if length == whole else (length + 1) // 2 for length in lengths)


def tiny_vit_sizes(state: State, image_size: int | None) -> TinyViTConfig:
    """Return the sizes of a TinyViT image encoder whose batch norms are folded.

    Args:
        state: The weights.
        image_size: Side of the square input, px, which the weights do not tell; 1024 if None.

    Raises:
        MisfitError: A weight is absent or has an odd shape.
        UsageError: The image size is not a positive multiple of 16.
    """
    size = TINY_VIT_IMAGE_SIZE if image_size is None else image_size
    if size <= 0 or size % 16:
        raise UsageError(
            f"an image size of {size} px is not possible for this model", cure="Choose a positive multiple of 16"
        )
    at = "image_encoder.layers"
    stages = _count(state, at)
    if stages != TINY_VIT_STAGES:
        raise MisfitError(f"it has {stages} stages, not {TINY_VIT_STAGES}")
    blocks = [f"{at}.{i}.blocks.0" for i in range(stages)]
    biases = [_shape(state, f"{block}.attn.attention_biases", 2) for block in blocks[1:]]
    if any(math.isqrt(offsets) ** 2 != offsets for _, offsets in biases):
        raise MisfitError("its attention windows are not square")
    dims = (
        _shape(state, "image_encoder.patch_embed.seq.2.weight", 4)[0],
        *(_shape(state, f"{block}.attn.qkv.weight", 2)[1] for block in blocks[1:]),
    )
    if any(dim % heads for dim, (heads, _) in zip(dims[1:], biases, strict=True)):
        raise MisfitError("its attention has no whole number of heads")
    return TinyViTConfig(
        image_size=size,
        embed_dims=dims,
        depths=tuple(_count(state, f"{at}.{i}.blocks") for i in range(stages)),
        num_heads=(0, *(heads for heads, _ in biases)),
        window_sizes=(0, *(math.isqrt(offsets) for _, offsets in biases)),
        mlp_dims=(
            _shape(state, f"{blocks[0]}.conv1.weight", 4)[0],
            *(_shape(state, f"{block}.mlp.fc1.weight", 2)[0] for block in blocks[1:]),
        ),
        local_conv_size=_shape(state, f"{blocks[1]}.local_conv.weight", 4)[-1],
        out_chans=_shape(state, "image_encoder.neck.0.weight", 4)[0],
    )


def decoder_sizes(state: State) -> DecoderConfig:
    """Return the sizes of prompt encoder and mask decoder.

    Raises:
        MisfitError: A weight is absent or has an odd shape.
    """
    transformer, iou_head = "mask_decoder.transformer.layers", "mask_decoder.iou_prediction_head.layers"
    sizes = DecoderConfig(
        dim=_shape(state, "prompt_encoder.no_mask_embed.weight", 2)[1],
        mask_in_chans=_shape(state, "prompt_encoder.mask_downscaling.3.weight", 4)[0],
        depth=_count(state, transformer),
        num_heads=DECODER_HEADS,
        mlp_dim=_shape(state, f"{transformer}.0.mlp.lin1.weight", 2)[0],
        internal_dim=_shape(state, f"{transformer}.0.cross_attn_token_to_image.q_proj.weight", 2)[0],
        num_mask_tokens=_shape(state, "mask_decoder.mask_tokens.weight", 2)[0],
        iou_head_depth=_count(state, iou_head),
        iou_head_hidden_dim=_shape(state, f"{iou_head}.0.weight", 2)[0],
    )
    if sizes.dim % DECODER_HEADS or sizes.internal_dim % DECODER_HEADS or sizes.mask_in_chans % 4:
        raise MisfitError("the widths of its mask decoder do not divide as SAM's do")
    return sizes
