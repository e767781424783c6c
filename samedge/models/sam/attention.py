"""Self-attention of the image encoder with decomposed relative positions, in forms that bound its memory.

The logits of one head are ``q k^T / sqrt(d) + rel_h + rel_w`` where ``rel_h[i, j] = q_i . R_h[y_i - y_j]`` and
likewise for the other axis (MViTv2, arXiv:2112.01526, equation 4). Written out at 64 x 64 tokens this is a 4096 x 4096
matrix a head: 805 MB for the 12 heads of ViT-B in float32, several times over. The chunked form computes the same
numbers for a few query rows of a few heads at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def relative_position_index(size: int) -> Tensor:
    """Return int64 ``[size, size]``: the row of the relative position table for each pair (query, key)."""
    coords = torch.arange(size)
    return coords[:, None] - coords[None, :] + (size - 1)


class RelPosAttention(nn.Module):
    """Multi-head attention over a square grid of tokens, with decomposed relative positions.

    Args:
        dim: Channels.
        num_heads: Heads; divides dim.
        grid: Side of the square of tokens that attend to each other.
        chunk_heads: Heads that are computed at once where the grid is chunked; 0 for all.
        chunk_rows: Grid rows of queries that are computed at once; 0 for all.
    """

    def __init__(self, dim: int, num_heads: int, grid: int, *, chunk_heads: int = 0, chunk_rows: int = 0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.grid = grid
        self.scale = self.head_dim**-0.5
        self.chunk_heads = chunk_heads or num_heads
        self.chunk_rows = chunk_rows or grid
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid - 1, self.head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid - 1, self.head_dim))
        self.register_buffer("index", relative_position_index(grid), persistent=False)
        self.index: Tensor

    def attend(self, qkv: Tensor) -> Tensor:
        """Return the attended values of projected tokens.

        Args:
            qkv: ``[B, grid * grid, 3 * dim]``, the output of ``self.qkv``.

        Returns:
            ``[B, grid * grid, dim]``, the input of ``self.proj``.
        """
        side, tokens, heads, dim = self.grid, self.grid * self.grid, self.num_heads, self.head_dim
        q, k, v = qkv.reshape(-1, tokens, 3, heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
        # einsum("bhwc,hkc->bhwk") and ("bhwc,wkc->bhwk") of the reference as broadcast matrix products: no Einsum node,
        # and the tables become constants of the graph.
        grid_q = q.reshape(-1, heads, side, side, dim)
        rel_h = grid_q @ self.rel_pos_h[self.index].transpose(1, 2)
        rel_w = (grid_q.transpose(2, 3) @ self.rel_pos_w[self.index].transpose(1, 2)).transpose(2, 3)
        rel_h, rel_w = rel_h.reshape(-1, heads, tokens, side), rel_w.reshape(-1, heads, tokens, side)

        q, k = q * self.scale, k.transpose(-2, -1)
        if self.chunk_heads == heads and self.chunk_rows == side:
            out = _attend(q, k, v, rel_h, rel_w)
        else:
            by_head = [torch.split(part, self.chunk_heads, 1) for part in (q, k, v, rel_h, rel_w)]
            out = torch.cat([self._attend_by_rows(*group) for group in zip(*by_head, strict=True)], 1)
        return out.transpose(1, 2).reshape(-1, tokens, heads * dim)

    def _attend_by_rows(self, q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
        by_row = [torch.split(part, self.chunk_rows * self.grid, 2) for part in (q, rel_h, rel_w)]
        return torch.cat([_attend(q, k, v, h, w) for q, h, w in zip(*by_row, strict=True)], 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Attend scaled queries to keys.

    Args:
        q: ``[B, heads, R, d]``.
        k: ``[B, heads, d, T]``.
        v: ``[B, heads, T, d]``.
        rel_h: ``[B, heads, R, side]``, with side * side = T.
        rel_w: The same for the other axis.

    Returns:
        ``[B, heads, R, d]``.
    """
    bias = (rel_h.unsqueeze(-1) + rel_w.unsqueeze(-2)).reshape(-1, q.shape[1], q.shape[2], k.shape[3])
    return (q @ k + bias).softmax(-1) @ v
