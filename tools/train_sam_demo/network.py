"""The configuration and initial weights of sam_demo; the model itself is `samedge.models.sam.sam.Sam`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samedge.models.sam.configs import IMAGENET, DecoderConfig, ViTConfig
from samedge.models.sam.encoders.vit import Block, ImageEncoderViT
from samedge.models.sam.mask_decoder import MaskDecoder
from samedge.models.sam.prompt_encoder import PromptEncoder
from samedge.models.sam.sam import Sam
from samedge.models.sam.two_way import Attention

PATCH = 16
_SHARPNESS = 2.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a SAM with a small ViT encoder.

    Attributes:
        image_size: Side of the input, px.
        embed_dim: Channels of a token; a multiple of 4.
        num_heads: Attention heads of the encoder.
        mlp_dim: Hidden channels of the encoder's MLPs.
        window_sizes: Side of the windows of each block in tokens; 0 for global attention.
        decoder_dim: Channels of the decoder; 256 in every SAM.
        decoder_mlp_dim: Hidden channels of the decoder's MLPs.
    """

    image_size: int = 512
    embed_dim: int = 192
    num_heads: int = 6
    mlp_dim: int = 512
    # 7 does not divide the grid of 32, so windows are padded, as in SAM ViT-B at 1024 px.
    window_sizes: tuple[int, ...] = (7, 7, 0, 7, 7, 0, 7, 0)
    decoder_dim: int = 256
    decoder_mlp_dim: int = 2048


SAM_DEMO = Shape()
TINY = Shape(64, 32, 2, 64, (3, 0), 32, 64)
"""A configuration for tests, too small for real use."""


def build(shape: Shape, seed: int = 0) -> Sam:
    """Return an untrained model whose weights depend only on the seed."""
    torch.manual_seed(seed)
    vit = ViTConfig(
        image_size=shape.image_size,
        patch_size=PATCH,
        embed_dim=shape.embed_dim,
        depth=len(shape.window_sizes),
        num_heads=shape.num_heads,
        mlp_dim=shape.mlp_dim,
        window_sizes=shape.window_sizes,
        out_chans=shape.decoder_dim,
    )
    sizes = DecoderConfig(dim=shape.decoder_dim, mlp_dim=shape.decoder_mlp_dim, internal_dim=shape.decoder_dim // 2)
    encoder, prompts, decoder = ImageEncoderViT(vit), PromptEncoder(vit, sizes), MaskDecoder(sizes)
    initialise_encoder(encoder)
    initialise_decoder(prompts, decoder)
    return Sam(encoder, prompts, decoder)


def initialise_encoder(encoder: ImageEncoderViT) -> None:
    """Initialise an encoder so that it saves the first thousand steps.

    Patches are projected to their low frequencies instead of noise, positions are distinct from the beginning, and the
    branches of the residual stream start small.
    """
    for block in (module for module in encoder.blocks if isinstance(module, Block)):
        for linear in (block.attn.qkv, block.attn.proj, block.mlp.lin1, block.mlp.lin2):
            nn.init.trunc_normal_(linear.weight, std=0.05 if linear is block.attn.qkv else 0.03)
            nn.init.zeros_(linear.bias)
        nn.init.trunc_normal_(block.attn.rel_pos_h, std=0.02)
        nn.init.trunc_normal_(block.attn.rel_pos_w, std=0.02)
    with torch.no_grad():
        encoder.patch_embed.proj.weight.copy_(cosine_filters(encoder.embed_dim))
        if encoder.patch_embed.proj.bias is not None:
            encoder.patch_embed.proj.bias.zero_()
        encoder.pos_embed.copy_(sine_positions(encoder.grid, encoder.embed_dim)[None])


@torch.no_grad()
def initialise_decoder(prompts: PromptEncoder, decoder: MaskDecoder) -> None:
    """Initialise a decoder so that its attention is at the position of a prompt from the start.

    Prompts and pixels share the same positional code, so queries and keys of the same projection match at the same
    position; the learned embeddings start small.
    """
    for attention in (m for m in decoder.transformer.modules() if isinstance(m, Attention)):
        if attention.q_proj.out_features < attention.q_proj.in_features:  # between tokens and image
            attention.q_proj.weight.mul_(_SHARPNESS)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.q_proj.bias.zero_()
            attention.k_proj.bias.zero_()
    for embedding in [*prompts.modules(), decoder.iou_token, decoder.mask_tokens]:
        if isinstance(embedding, nn.Embedding):
            embedding.weight.mul_(0.4)


def cosine_filters(count: int) -> Tensor:
    """Return the first filters of a patch's cosine transform, ``[count, 3, 16, 16]``, two thirds of them grey.

    High frequencies, which are weaker in images, are amplified, so that channels start with similar variances.
    """
    position = (torch.arange(PATCH) + 0.5) * math.pi / PATCH
    orders = [(u, v) for u in range(PATCH) for v in range(PATCH)]
    orders.sort(key=lambda order: (order[0] ** 2 + order[1] ** 2, order))
    axes = {"grey": (0.58, 0.58, 0.58), "red": (0.7, -0.7, 0.0), "blue": (0.4, 0.4, -0.8)}
    chroma = count // 6
    filters = []
    for name, many in (("grey", count - 2 * chroma), ("red", chroma), ("blue", chroma)):
        tint = torch.tensor(axes[name])
        for u, v in orders[:many]:
            basis = torch.outer(torch.cos(u * position), torch.cos(v * position))
            basis = basis / basis.norm() * (0.03 + 0.03 * math.hypot(u, v))
            filters.append(tint[:, None, None] * basis)
    return torch.stack(filters)


def sine_positions(grid: int, dim: int) -> Tensor:
    """Return small sine and cosine codes of a square grid's positions, ``[grid, grid, dim]``."""
    frequency = 1.0 / 100 ** (torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(grid)[:, None] * frequency
    code = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, columns = code[:, None].expand(-1, grid, -1), code[None].expand(grid, -1, -1)
    return 0.3 * torch.cat([rows, columns], dim=2)


def normalise(images: Tensor) -> Tensor:
    """Map images uint8 ``[N, S, S, 3]`` to the encoder's input float32 ``[N, 3, S, S]``."""
    mean, std = (
        torch.tensor(IMAGENET.pixel_mean, device=images.device),
        torch.tensor(IMAGENET.pixel_std, device=images.device),
    )
    return ((images.float() - mean) / std).permute(0, 3, 1, 2).contiguous()
