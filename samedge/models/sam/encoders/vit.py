"""SAM's image encoder: a plain ViT with windowed and global attention (ViTDet, arXiv:2203.16527).

It computes the same numbers as Meta's `ImageEncoderViT`, in a form made for export: tokens stay flat, ``[N, tokens,
dim]``, with N free; one gather cuts the windows and one puts them back; and query, key and value are projected before
the padding, so that padding costs no projection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samedge.models.sam.attention import RelPosAttention
from samedge.models.sam.configs import ViTConfig
from samedge.models.sam.layers import MLPBlock, embedding_neck

CHUNK_ABOVE_TOKENS = 1024
"""Global attention over more tokens is computed a few rows of queries at a time."""


def window_index(grid: int, window: int) -> tuple[Tensor, Tensor]:
    """Return the gathers that cut a grid of tokens into windows and put it together again.

    Windows at the right and bottom edges are padded with the token at index grid * grid, behind the last real one.

    Returns:
        int64 ``[windows * window * window]``, from grid to windows, and int64 ``[grid * grid]``, back.
    """
    across = -(-grid // window)
    padded = torch.full((across * window, across * window), grid * grid, dtype=torch.int64)
    padded[:grid, :grid] = torch.arange(grid * grid).reshape(grid, grid)
    cut = padded.reshape(across, window, across, window).transpose(1, 2).reshape(-1)
    place = torch.empty(grid * grid + 1, dtype=torch.int64)
    place[cut] = torch.arange(cut.numel())
    return cut, place[:-1]


class PatchEmbed(nn.Module):
    """Non-overlapping patches as tokens."""

    def __init__(self, patch_size: int, dim: int, grid: int) -> None:
        super().__init__()
        # Every reshape has -1 for the batch and names all other sizes, so that the graph computes no shapes.
        self.shape = (-1, dim, grid * grid)
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[N, 3, S, S]`` to ``[N, tokens, dim]``."""
        out: Tensor = self.proj(image).reshape(self.shape).transpose(1, 2)
        return out


class Block(nn.Module):
    """A transformer block with attention in windows of a side, or global attention if `window` is 0."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, grid: int, window: int) -> None:
        super().__init__()
        self.dim = dim
        self.window = window
        self.padded = window > 0 and grid % window > 0
        chunked = window == 0 and grid * grid > CHUNK_ABOVE_TOKENS
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = RelPosAttention(
            dim,
            num_heads,
            window or grid,
            # All heads at once: one by one they would need even less memory, but twelve times the nodes, and a graph of
            # thousands of nodes takes a minute to simplify and seconds to open.
            chunk_rows=max(1, 256 // grid) if chunked else 0,
        )
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(dim, mlp_dim, nn.GELU)
        if window:
            cut, place = window_index(grid, window)
            self.register_buffer("cut", cut, persistent=False)
            self.register_buffer("place", place, persistent=False)
            self.cut: Tensor
            self.place: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, tokens, dim]`` to the same shape."""
        normed = self.norm1(x)
        if self.window:
            # The reference pads with zeros after the norm, so that a padding token's query, key and value are the
            # projection's bias: one zero row, projected and gathered.
            if self.padded:
                normed = nn.functional.pad(normed, (0, 0, 0, 1))
            windows = self.attn.qkv(normed).index_select(1, self.cut)
            windows = windows.reshape(-1, self.window * self.window, 3 * self.dim)
            attended = self.attn.attend(windows)
            attended = attended.reshape(-1, self.cut.numel(), self.dim).index_select(1, self.place)
        else:
            attended = self.attn.attend(self.attn.qkv(normed))
        x = x + self.attn.proj(attended)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class ImageEncoderViT(nn.Module):
    """The image encoder of SAM ViT-B, ViT-L, ViT-H and of fine-tunes in other sizes."""

    family = "sam_vit"

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.grid = config.grid
        self.embed_dim = config.embed_dim
        self.patch_embed = PatchEmbed(config.patch_size, self.embed_dim, self.grid)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid, self.grid, self.embed_dim))
        self.blocks = nn.ModuleList(
            Block(self.embed_dim, config.num_heads, config.mlp_dim, self.grid, window) for window in config.window_sizes
        )
        self.neck = embedding_neck(self.embed_dim, config.out_chans)

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised images float32 ``[N, 3, S, S]`` to image embeddings float32 ``[N, out_chans, grid, grid]``."""
        x = self.embed(image)
        for block in self.blocks:
            x = block(x)
        return self.finish(x)

    def embed(self, image: Tensor) -> Tensor:
        """Map images ``[N, 3, S, S]`` to tokens with positions ``[N, tokens, embed_dim]``."""
        out: Tensor = self.patch_embed(image) + self.pos_embed.reshape(1, self.grid * self.grid, self.embed_dim)
        return out

    def finish(self, x: Tensor) -> Tensor:
        """Map the tokens of the last block to the image embeddings."""
        out: Tensor = self.neck(x.transpose(1, 2).reshape(-1, self.embed_dim, self.grid, self.grid))
        return out
