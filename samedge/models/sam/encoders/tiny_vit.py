"""MobileSAM's image encoder: a TinyViT (arXiv:2207.10666) that ends at a sixteenth of the input's side.

LiteMedSAM's is the same but for the patch embedding, and ends at a quarter.

It computes the same numbers as mobile_sam's `TinyViT`, in a form made for export: batch norms are folded into their
convolutions when a checkpoint is loaded (batch_norm.py), N is free, and one gather each cuts windows and puts them
back. Module names follow the reference's, except that a convolution with its batch norm (``X.c``, ``X.bn``) is one
convolution ``X``.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from samedge.models.sam.configs import TinyViTConfig
from samedge.models.sam.encoders.vit import window_index
from samedge.models.sam.layers import embedding_neck

MERGE_STRIDES: Final = (2, 2, 1)
"""After stages 0, 1 and 2. The reference has stride 1 before a stage of 320, 448 or 576 channels, the widths of its
variants' last stages."""


class PatchEmbed(nn.Module):
    """Two convolutions: of 3 x 3 with stride 2, which reduce the image to a quarter of its side, or of 1 x 1."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        size, padding = (3, 1) if stride > 1 else (1, 0)
        self.seq = nn.Sequential(
            nn.Conv2d(3, dim // 2, kernel_size=size, stride=stride, padding=padding),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, kernel_size=size, stride=stride, padding=padding),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[N, 3, S, S]`` to ``[N, dim, S', S']``."""
        out: Tensor = self.seq(image)
        return out


class MBConv(nn.Module):
    """An inverted residual block: widening, depthwise and narrowing convolutions."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, hidden_dim, kernel_size=1)
        self.conv2 = nn.Conv2d(hidden_dim, hidden_dim, kernel_size=3, padding=1, groups=hidden_dim)
        self.conv3 = nn.Conv2d(hidden_dim, dim, kernel_size=1)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, dim, H, W]`` to the same shape."""
        out: Tensor = self.act(x + self.conv3(self.act(self.conv2(self.act(self.conv1(x))))))
        return out


class PatchMerging(nn.Module):
    """The transition to the next stage: other channels, and half the resolution if the stride is 2."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, out_dim, kernel_size=1)
        self.conv2 = nn.Conv2d(out_dim, out_dim, kernel_size=3, stride=stride, padding=1, groups=out_dim)
        self.conv3 = nn.Conv2d(out_dim, out_dim, kernel_size=1)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, dim, H, W]`` to ``[N, out_dim, H / stride, W / stride]``."""
        out: Tensor = self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))
        return out


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with one learned bias per head for each offset between two tokens."""

    def __init__(self, dim: int, num_heads: int, grid: int, window: int) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.window = window
        self.padded = grid % window > 0
        self.scale = self.head_dim**-0.5
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))
        y, x = (part.flatten() for part in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"))
        offset = (y[:, None] - y).abs() * window + (x[:, None] - x).abs()
        self.register_buffer("offset", offset, persistent=False)
        self.offset: Tensor
        cut, place = window_index(grid, window)
        self.register_buffer("cut", cut, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.cut: Tensor
        self.place: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, tokens, dim]`` to the same shape."""
        if self.padded:
            # The reference pads with zeros before the norm, so that a padding token becomes the norm's bias.
            x = nn.functional.pad(x, (0, 0, 0, 1))
        qkv = self.qkv(self.norm(x)).index_select(1, self.cut)
        tokens = self.window * self.window
        qkv = qkv.reshape(-1, tokens, self.num_heads, 3 * self.head_dim).transpose(1, 2)
        q, k, v = torch.split(qkv, self.head_dim, dim=-1)
        logits = (q * self.scale) @ k.transpose(-2, -1) + self.attention_biases[:, self.offset]
        attended = (logits.softmax(-1) @ v).transpose(1, 2)
        attended = attended.reshape(-1, self.cut.numel(), self.dim).index_select(1, self.place)
        out: Tensor = self.proj(attended)
        return out


class Mlp(nn.Module):
    """A norm and two linear layers."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., dim]`` to the same shape."""
        out: Tensor = self.fc2(self.act(self.fc1(self.norm(x))))
        return out


class TinyViTBlock(nn.Module):
    """Attention in windows, a depthwise convolution over all tokens, and an MLP."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, grid: int, window: int, local_conv_size: int) -> None:
        super().__init__()
        self.map_shape = (-1, dim, grid, grid)
        self.flat_shape = (-1, dim, grid * grid)
        self.attn = WindowAttention(dim, num_heads, grid, window)
        self.mlp = Mlp(dim, mlp_dim)
        self.local_conv = nn.Conv2d(dim, dim, local_conv_size, padding=local_conv_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, tokens, dim]`` to the same shape."""
        x = x + self.attn(x)
        x = self.local_conv(x.transpose(1, 2).reshape(self.map_shape)).reshape(self.flat_shape).transpose(1, 2)
        out: Tensor = x + self.mlp(x)
        return out


class ConvStage(nn.Module):
    """Stage 0: convolutional blocks and the transition to stage 1."""

    def __init__(self, dim: int, depth: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(MBConv(dim, hidden_dim) for _ in range(depth)))
        self.downsample = PatchMerging(dim, out_dim, MERGE_STRIDES[0])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, dim, H, W]`` to ``[N, out_dim, H / 2, W / 2]``."""
        out: Tensor = self.downsample(self.blocks(x))
        return out


class AttentionStage(nn.Module):
    """Stages 1 to 3: attention blocks and, except in the last, the transition to the next stage."""

    def __init__(self, blocks: list[TinyViTBlock], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.flat_shape, self.map_shape = blocks[0].flat_shape, blocks[0].map_shape
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, dim, H, W]`` to ``[N, out_dim, H / stride, W / stride]``."""
        tokens = self.blocks(x.reshape(self.flat_shape).transpose(1, 2))
        out: Tensor = self.downsample(tokens.transpose(1, 2).reshape(self.map_shape))
        return out


class TinyViT(nn.Module):
    """The image encoder of MobileSAM and of fine-tunes in other sizes."""

    family = "tiny_vit_sam"

    def __init__(self, config: TinyViTConfig) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.grid = config.grid
        dims, hidden_dims = config.embed_dims, config.mlp_dims
        self.patch_embed = PatchEmbed(dims[0], config.patch_stride)
        self.layers = nn.ModuleList([ConvStage(dims[0], config.depths[0], hidden_dims[0], dims[1])])
        side = config.image_size // config.patch_stride**2
        for i in range(1, len(dims)):
            side //= MERGE_STRIDES[i - 1]
            heads, window = config.num_heads[i], config.window_sizes[i]
            blocks = [
                TinyViTBlock(dims[i], heads, hidden_dims[i], side, window, config.local_conv_size)
                for _ in range(config.depths[i])
            ]
            merge = PatchMerging(dims[i], dims[i + 1], MERGE_STRIDES[i]) if i < len(dims) - 1 else None
            self.layers.append(AttentionStage(blocks, merge))
        self.neck = embedding_neck(dims[-1], config.out_chans)

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised images float32 ``[N, 3, S, S]`` to image embeddings float32 ``[N, out_chans, grid, grid]``."""
        x = self.patch_embed(image)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.neck(x)
        return out
