"""The two-way transformer of SAM's mask decoder: tokens attend to the image and the image to tokens."""

from __future__ import annotations

import math

from torch import Tensor, nn

from samedge.models.sam.configs import DecoderConfig
from samedge.models.sam.layers import MLPBlock


class Attention(nn.Module):
    """Multi-head attention whose queries, keys and values may have fewer channels than the tokens."""

    def __init__(self, embedding_dim: int, num_heads: int, internal_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = internal_dim // num_heads
        self.q_proj = nn.Linear(embedding_dim, internal_dim)
        self.k_proj = nn.Linear(embedding_dim, internal_dim)
        self.v_proj = nn.Linear(embedding_dim, internal_dim)
        self.out_proj = nn.Linear(internal_dim, embedding_dim)

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, self.num_heads, self.head_dim).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend q ``[B, T, C]`` to k and v ``[B or 1, S, C]``; return ``[B, T, C]``."""
        q, k, v = self._heads(self.q_proj(q)), self._heads(self.k_proj(k)), self._heads(self.v_proj(v))
        weights = ((q @ k.transpose(-2, -1)) / math.sqrt(self.head_dim)).softmax(-1)
        mixed = (weights @ v).transpose(1, 2)
        out: Tensor = self.out_proj(mixed.reshape(mixed.shape[0], -1, self.num_heads * self.head_dim))
        return out


class TwoWayAttentionBlock(nn.Module):
    """Self-attention of tokens, attention to the image, MLP, attention of the image to the tokens."""

    def __init__(self, sizes: DecoderConfig, *, first: bool) -> None:
        super().__init__()
        embedding_dim, num_heads, internal_dim = sizes.dim, sizes.num_heads, sizes.internal_dim
        self.first = first
        self.self_attn = Attention(embedding_dim, num_heads, embedding_dim)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, internal_dim)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLPBlock(embedding_dim, sizes.mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, internal_dim)

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Return updated tokens ``[B, T, C]`` and image ``[B, S, C]``."""
        if self.first:
            # The first block has no residual: its tokens are their own positional encoding.
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        queries = self.norm1(queries)
        queries = queries + self.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys)
        queries = self.norm2(queries)
        queries = self.norm3(queries + self.mlp(queries))
        keys = keys + self.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries)
        return queries, self.norm4(keys)


class TwoWayTransformer(nn.Module):
    """Layers of `TwoWayAttentionBlock` and a last attention from tokens to image."""

    def __init__(self, sizes: DecoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayAttentionBlock(sizes, first=i == 0) for i in range(sizes.depth))
        self.final_attn_token_to_image = Attention(sizes.dim, sizes.num_heads, sizes.internal_dim)
        self.norm_final_attn = nn.LayerNorm(sizes.dim)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens ``[B, T, C]`` and image ``[B, S, C]``.

        Args:
            image: ``[B, S, C]``, image embedding plus dense prompt embedding.
            image_pe: ``[1, S, C]``.
            tokens: ``[B, T, C]``.
        """
        queries, keys = tokens, image
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, image_pe)
        attended = self.final_attn_token_to_image(queries + tokens, keys + image_pe, keys)
        return self.norm_final_attn(queries + attended), keys
