"""MobileSAM's image encoder in its exported form for CPUs: an exact rewrite of `TinyViT`.

* Scale and biases of attention are folded away, heads of windows are gathered, and MLPs take some of the tokens at a
time, as in `samedge.export.graphs.encoder_forms`;
* sizes determined by the weights are constants;
* the widest maps are never materialised: an inverted residual block at a quarter of the image's side has 256 channels,
67 MB for each map between its convolutions. Strips of rows need a quarter of that, and compute the two rows that they
share twice.
"""

from __future__ import annotations

import math
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samedge.bundle.manifest import DEFAULT_VARIANT
from samedge.export.graphs.encoder_forms import CHUNK_TOKENS, WindowedModule
from samedge.models.sam.encoders.tiny_vit import AttentionStage, ConvStage, MBConv, PatchMerging, TinyViT, TinyViTBlock
from samedge.types import EncoderForm

STRIP_NUMBERS: Final = 1 << 22
"""Numbers of a block's widest map that are computed at once: 16 MB. Half or a quarter is not faster, and adds nodes."""

_CHANNEL_PARTS: Final = 8


class Strips(nn.Module):
    """A widening, a depthwise and a narrowing convolution of an input with a `side`, a strip of rows at a time."""

    def __init__(self, block: MBConv | PatchMerging, side: int) -> None:
        super().__init__()
        self.block = block
        self.side = side
        self.stride = int(block.conv2.stride[0])
        rows = max(1, STRIP_NUMBERS // (block.conv1.out_channels * side * self.stride))
        self.out_side = -(-side // self.stride)
        self.starts = range(0, self.out_side, rows)
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, C', H / stride, W / stride]``."""
        if len(self.starts) == 1:
            out: Tensor = self.block(x)
            return out
        return torch.cat([self._strip(x, start, min(start + self.rows, self.out_side)) for start in self.starts], 2)

    def _strip(self, x: Tensor, start: int, end: int) -> Tensor:
        """Return some rows of the output."""
        block = self.block
        first, last = start * self.stride - 1, (end - 1) * self.stride + 2
        top, bottom = max(0, -first), max(0, last - self.side)
        hidden = block.act(block.conv1(x[:, :, first + top : last - bottom]))
        if top or bottom:
            # The map is padded with zeros after the first convolution, not before.
            hidden = F.pad(hidden, (0, 0, top, bottom))
        conv = block.conv2
        hidden = F.conv2d(hidden, conv.weight, conv.bias, self.stride, padding=(0, 1), groups=conv.groups)
        narrow = block.conv3(block.act(hidden))
        if isinstance(block, MBConv):
            narrow = block.act(x[:, :, start:end] + narrow)
        return cast("Tensor", narrow)


def to_maps(tokens: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Map tokens ``[N, H * W, C]`` to maps of a shape ``(-1, C, H, W)``.

    OpenVINO has a fast kernel only for transpositions of four axes that move the last to the second place; with three
    axes, it takes five times as long.
    """
    _, channels, height, width = shape
    return tokens.reshape(-1, height, width, channels).permute(0, 3, 1, 2)


def to_tokens(maps: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Map ``(-1, C, H, W)`` to tokens ``[N, H * W, C]`` by the same transposition, with two axes of channels."""
    _, channels, height, width = shape
    few = math.gcd(channels, _CHANNEL_PARTS)
    parts = maps.reshape(-1, few, channels // few, height * width)
    return parts.permute(0, 3, 1, 2).reshape(-1, height * width, channels)


class FoldedTinyBlock(WindowedModule):
    """`TinyViTBlock` with scale and biases of its attention folded away."""

    def __init__(self, block: TinyViTBlock) -> None:
        super().__init__()
        self.block = block
        attention = block.attn
        self.dim, self.heads, self.head_dim = attention.dim, attention.num_heads, attention.head_dim
        self.inside, self.tokens = attention.window * attention.window, attention.place.numel()
        self.index_windows(attention.cut, attention.place, self.heads, self.inside)
        with torch.no_grad():
            # [head, query/key/value, channel] to [query/key/value, head, channel].
            weight = attention.qkv.weight.reshape(self.heads, 3, self.head_dim, self.dim).transpose(0, 1)
            bias = attention.qkv.bias.reshape(self.heads, 3, self.head_dim).transpose(0, 1).reshape(3, -1)
            scale = torch.tensor([attention.scale, 1, 1]).reshape(3, 1, 1, 1)
            self.qkv_weight = nn.Parameter((weight * scale).reshape(3 * self.dim, self.dim))
            query_only = torch.zeros(3, self.dim)
            query_only[0] = bias[0] * attention.scale
            self.qkv_bias = nn.Parameter(query_only.reshape(-1))
            self.proj_bias = nn.Parameter(attention.proj.bias + attention.proj.weight @ bias[2])
            self.bias = nn.Parameter(attention.attention_biases[:, attention.offset])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, tokens, dim]`` to the same shape."""
        block = self.block
        x = x + self._attend(x)
        x = to_tokens(block.local_conv(to_maps(x, block.map_shape)), block.map_shape)
        # Not as a matrix, unlike in `samedge.export.graphs.encoder_forms`: OpenVINO fuses the sum with the linear layer
        # unless there is a reshape between them.
        if self.tokens <= CHUNK_TOKENS:
            out: Tensor = x + block.mlp(x)
            return out
        return torch.cat([part + block.mlp(part) for part in torch.split(x, CHUNK_TOKENS, 1)], 1)

    def _attend(self, x: Tensor) -> Tensor:
        attention = self.block.attn
        if attention.padded:
            x = F.pad(x, (0, 0, 0, 1))  # zero before the norm, as in the reference
        rows = F.linear(attention.norm(x), self.qkv_weight, self.qkv_bias)
        rows = rows.reshape(-1, (self.tokens + attention.padded) * 3 * self.heads, self.head_dim)
        shape = (-1, self.heads, self.inside, self.head_dim)
        q, k, v = (
            rows.index_select(1, index).reshape(shape) for index in (self.query_rows, self.key_rows, self.value_rows)
        )
        attended = (q @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v
        attended = attended.reshape(-1, self.query_rows.numel(), self.head_dim).index_select(1, self.back_rows)
        return F.linear(attended.reshape(-1, self.tokens, self.dim), attention.proj.weight, self.proj_bias)


class FoldedTinyViT(nn.Module):
    """`TinyViT` in the exported form, sharing most weights."""

    def __init__(self, encoder: TinyViT) -> None:
        super().__init__()
        self.encoder = encoder
        first, *rest = encoder.layers
        conv, side = cast("ConvStage", first), encoder.image_size // 4
        blocks = [cast("MBConv", block) for block in conv.blocks]
        wide: list[MBConv | PatchMerging] = [*blocks, conv.downsample]
        self.wide = nn.ModuleList(Strips(block, side) for block in wide)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                FoldedTinyBlock(cast("TinyViTBlock", block)) for block in cast("AttentionStage", stage).blocks
            )
            for stage in rest
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[N, 3, S, S]``, normalised, to ``[N, out_chans, g, g]``."""
        encoder = self.encoder
        x = encoder.patch_embed(image)
        for step in self.wide:
            x = step(x)
        for blocks, layer in zip(self.stages, list(encoder.layers)[1:], strict=True):
            stage = cast("AttentionStage", layer)
            x = to_tokens(x, stage.map_shape)
            for block in cast("nn.ModuleList", blocks):
                x = block(x)
            x = stage.downsample(to_maps(x, stage.map_shape))
        out: Tensor = encoder.neck(x)
        return out


def tiny_vit_form(encoder: TinyViT, form: EncoderForm) -> tuple[nn.Module, str]:
    """Return MobileSAM's encoder in a form, and the name of the variant."""
    if form == "chunked":
        return FoldedTinyViT(encoder), "strips"
    # TensorRT fuses the plain encoder; for the other form its plan holds gathered windows, 470 MB instead of 21.
    return encoder, DEFAULT_VARIANT
