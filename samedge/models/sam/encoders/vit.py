"""SAM's image encoder: a plain ViT with windowed and global attention (ViTDet, arXiv:2203.16527).

The numbers are those of Meta's `ImageEncoderViT`; the form is made for export. Tokens stay flat, ``[N, tokens, dim]``,
with N free. Windows are cut and put back by one gather each, and query, key and value are projected before the
padding, so that padded tokens cost no projection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samedge.models.sam.attention import RelPosAttention
from samedge.models.sam.layers import MLPBlock, embedding_neck

CHUNK_ABOVE_TOKENS = 1024
"""Global attention over more tokens than this is computed a few rows of queries at a time."""


def window_index(grid: int, window: int) -> tuple[Tensor, Tensor]:
    """Return the gathers that cut a grid of tokens into windows and put it together again.

    Windows at the right and bottom edge are padded. The padding token stands behind the last real one, at index grid *
    grid.

    Args:
        grid: Side of the token grid.
        window: Side of a window.

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
    """Non-overlapping patches to tokens."""

    def __init__(self, patch_size: int, dim: int, grid: int) -> None:
        super().__init__()
        # Every reshape names all sizes but the batch: a -1 there, and the graph computes no shapes.
        self.shape = (-1, dim, grid * grid)
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[N, 3, S, S]`` to ``[N, tokens, dim]``."""
        out: Tensor = self.proj(image).reshape(self.shape).transpose(1, 2)
        return out


class Block(nn.Module):
    """A transformer block whose attention sees one window, or everything.

    Args:
        dim: Channels.
        num_heads: Heads.
        mlp_dim: Hidden channels of the feed-forward part.
        grid: Side of the token grid.
        window: Side of a window; 0 for global attention.
    """

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
            # All heads at once: taken one by one they need less memory still, but twelve times the nodes, and a graph
            # of thousands of nodes takes a minute to simplify and seconds to open.
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
            # The reference pads with zeros after the norm, so a padding token's query, key and value are the
            # projection's bias: projecting one zero row and gathering it gives just that.
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
    """The image encoder of SAM ViT-B, ViT-L, ViT-H and of fine-tunes in other sizes.

    Args:
        image_size: Side of the square input, px.
        patch_size: Side of a patch, px.
        embed_dim: Channels of a token.
        depth: Blocks.
        num_heads: Attention heads.
        mlp_dim: Hidden channels of the feed-forward part of a block.
        window_sizes: One entry a block: side of its windows in tokens, 0 for global attention.
        out_chans: Channels of the embedding.
    """

    family = "sam_vit"

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        window_sizes: tuple[int, ...],
        out_chans: int = 256,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.grid = image_size // patch_size
        self.embed_dim = embed_dim
        self.patch_embed = PatchEmbed(patch_size, embed_dim, self.grid)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid, self.grid, embed_dim))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_dim, self.grid, window_sizes[i]) for i in range(depth)
        )
        self.neck = embedding_neck(embed_dim, out_chans)

    def forward(self, image: Tensor) -> Tensor:
        """Return the image embeddings.

        Args:
            image: float32 ``[N, 3, image_size, image_size]``, normalised.

        Returns:
            float32 ``[N, out_chans, grid, grid]``.
        """
        x = self.embed(image)
        for block in self.blocks:
            x = block(x)
        return self.finish(x)

    def embed(self, image: Tensor) -> Tensor:
        """Map an image ``[N, 3, S, S]`` to tokens with their positions ``[N, tokens, embed_dim]``."""
        out: Tensor = self.patch_embed(image) + self.pos_embed.reshape(1, self.grid * self.grid, self.embed_dim)
        return out

    def finish(self, x: Tensor) -> Tensor:
        """Map the tokens after the last block to the image embeddings."""
        out: Tensor = self.neck(x.transpose(1, 2).reshape(-1, self.embed_dim, self.grid, self.grid))
        return out
