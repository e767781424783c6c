"""Self-attention of the image encoder with decomposed relative positions, in chunks that bound its memory.

The logits of one head are ``q k^T / sqrt(d) + rel_h + rel_w`` where ``rel_h[i, j] = q_i . R_h[y_i - y_j]``, and
likewise for columns (MViTv2, arXiv:2112.01526, equation 4). At 64 x 64 tokens they are a 4096 x 4096 matrix per head:
805 MB for the 12 heads of ViT-B in float32, several times over. The chunked form computes the same numbers for a few
rows of queries at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def relative_position_index(size: int) -> Tensor:
    """Return int64 ``[size, size]``: for each query and key, the row of the relative position table."""
    coords = torch.arange(size)
    return coords[:, None] - coords[None, :] + (size - 1)


class RelPosAttention(nn.Module):
    """Multi-head attention over a square grid of tokens, with decomposed relative positions.

    Args:
        dim: Channels.
        num_heads: Heads; divides dim.
        grid: Side of the grid.
        chunk_rows: Grid rows of queries computed at once; 0 for all.
    """

    def __init__(self, dim: int, num_heads: int, grid: int, *, chunk_rows: int = 0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.grid = grid
        self.scale = self.head_dim**-0.5
        self.chunk_rows = chunk_rows or grid
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid - 1, self.head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid - 1, self.head_dim))
        self.register_buffer("index", relative_position_index(grid), persistent=False)
        self.index: Tensor

    def attend(self, qkv: Tensor) -> Tensor:
        """Map projected tokens ``[B, grid * grid, 3 * dim]`` to attended values ``[B, grid * grid, dim]``."""
        side, tokens, heads, dim = self.grid, self.grid * self.grid, self.num_heads, self.head_dim
        q, k, v = qkv.reshape(-1, tokens, 3, heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
        # The reference's einsum("bhwc,hkc->bhwk") and ("bhwc,wkc->bhwk") as broadcast matrix products: no Einsum node,
        # and the tables become constants of the graph.
        grid_q = q.reshape(-1, heads, side, side, dim)
        rel_h = grid_q @ self.rel_pos_h[self.index].transpose(1, 2)
        rel_w = (grid_q.transpose(2, 3) @ self.rel_pos_w[self.index].transpose(1, 2)).transpose(2, 3)
        rel_h, rel_w = rel_h.reshape(-1, heads, tokens, side), rel_w.reshape(-1, heads, tokens, side)

        q, k = q * self.scale, k.transpose(-2, -1)
        if self.chunk_rows == side:
            out = _attend(q, k, v, rel_h, rel_w)
        else:
            by_row = [torch.split(part, self.chunk_rows * side, 2) for part in (q, rel_h, rel_w)]
            out = torch.cat([_attend(q, k, v, h, w) for q, h, w in zip(*by_row, strict=True)], 2)
        return out.transpose(1, 2).reshape(-1, tokens, heads * dim)


def _attend(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Attend R scaled queries ``[B, h, R, d]`` to transposed keys ``[B, h, d, T]`` and values ``[B, h, T, d]``.

    The biases ``rel_h`` and ``rel_w`` are ``[B, h, R, side]``, with side * side = T.
    """
    bias = (rel_h.unsqueeze(-1) + rel_w.unsqueeze(-2)).reshape(-1, q.shape[1], q.shape[2], k.shape[3])
    return (q @ k + bias).softmax(-1) @ v
