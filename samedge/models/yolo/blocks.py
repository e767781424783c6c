"""Blocks of YOLOs, under the module names of Ultralytics' weights, with batch norms folded in."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samedge.models.yolo.architectures import Layer

_CHANNELS_A_HEAD = 64
_CHANNELS_AN_AREA_HEAD = 32


class Conv(nn.Module):
    """A convolution with padding, followed by SiLU unless it is plain."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        plain: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups)
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to ``[N, out_channels, H / stride, W / stride]``."""
        out: Tensor = self.conv(x)
        return out if self.plain else F.silu(out)


class Bottleneck(nn.Module):
    """Two 3 x 3 convolutions, residual or not."""

    def __init__(self, channels: int, inner: int, *, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, inner, 3)
        self.cv2 = Conv(inner, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to the same shape."""
        out: Tensor = self.cv2(self.cv1(x))
        return x + out if self.shortcut else out


class C3k(nn.Module):
    """Two bottlenecks parallel to a 1 x 1 convolution."""

    def __init__(self, channels: int, inner: int, *, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, inner)
        self.cv2 = Conv(channels, inner)
        self.cv3 = Conv(2 * inner, channels)
        self.m = nn.Sequential(*(Bottleneck(inner, inner, shortcut=shortcut) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to the same shape."""
        out: Tensor = self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))
        return out


class Attention(nn.Module):
    """Self-attention over all cells, with keys of half the channels and a depthwise convolution for positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(channels // _CHANNELS_A_HEAD, 1)
        self.key = channels // self.heads // 2
        self.qkv = Conv(channels, channels + 2 * self.key * self.heads, plain=True)
        self.proj = Conv(channels, channels, plain=True)
        self.pe = Conv(channels, channels, 3, groups=channels, plain=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to the same shape."""
        cells = self.qkv(x).flatten(2).unflatten(1, (self.heads, -1))
        query, key, value = cells.split([self.key, self.key, cells.shape[2] - 2 * self.key], dim=2)
        weights = ((query * self.key**-0.5).transpose(-2, -1) @ key).softmax(-1)
        out = (value @ weights.transpose(-2, -1)).reshape(x.shape) + self.pe(value.reshape(x.shape))
        projected: Tensor = self.proj(out)
        return projected


class AttentionBlock(nn.Module):
    """Residual attention and a residual MLP: Ultralytics' PSABlock."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attn = Attention(channels)
        self.ffn = nn.Sequential(Conv(channels, 2 * channels), Conv(2 * channels, channels, plain=True))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to the same shape."""
        x = x + self.attn(x)
        out: Tensor = x + self.ffn(x)
        return out


class AreaAttention(nn.Module):
    """Self-attention within strips of the image (arXiv:2502.12524)."""

    def __init__(self, channels: int, area: int) -> None:
        super().__init__()
        self.heads = channels // _CHANNELS_AN_AREA_HEAD
        self.area = area
        self.qkv = Conv(channels, 3 * channels, plain=True)
        self.proj = Conv(channels, channels, plain=True)
        self.pe = Conv(channels, channels, 7, groups=channels, plain=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to the same shape; H * W is a multiple of the number of areas."""
        # [N, heads, 3 C, area, cells]; the areas then join the batch.
        cells = self.qkv(x).flatten(2).unflatten(1, (self.heads, -1)).unflatten(3, (self.area, -1))
        query, key, value = cells.permute(0, 3, 1, 2, 4).chunk(3, dim=3)
        weights = ((query * _CHANNELS_AN_AREA_HEAD**-0.5).transpose(-2, -1) @ key).softmax(-1)
        out, value = (
            part.permute(0, 2, 3, 1, 4).reshape(x.shape) for part in (value @ weights.transpose(-2, -1), value)
        )
        projected: Tensor = self.proj(out + self.pe(value))
        return projected


class AreaBlock(nn.Module):
    """Residual area attention and a residual MLP: Ultralytics' ABlock."""

    def __init__(self, channels: int, inner: int, area: int) -> None:
        super().__init__()
        self.attn = AreaAttention(channels, area)
        self.mlp = nn.Sequential(Conv(channels, inner), Conv(inner, channels, plain=True))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to the same shape."""
        x = x + self.attn(x)
        out: Tensor = x + self.mlp(x)
        return out


class C2f(nn.Module):
    """A cross-stage partial block: half of the channels pass a chain of links, all of whose outputs are joined.

    Ultralytics' C2f and C3k2, which differ in their links.
    """

    def __init__(self, channels: int, layer: Layer) -> None:
        super().__init__()
        self.cv1 = Conv(channels, 2 * layer.hidden)
        self.cv2 = Conv((2 + layer.depth) * layer.hidden, layer.width)
        self.m = nn.ModuleList(link(layer) for _ in range(layer.depth))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to ``[N, width, H, W]``."""
        parts = list(self.cv1(x).chunk(2, 1))
        for each in self.m:
            parts.append(each(parts[-1]))
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return out


class C2(nn.Module):
    """A cross-stage partial block that uses only the end of the chain: Ultralytics' C2 and, with attention, C2PSA."""

    def __init__(self, channels: int, layer: Layer) -> None:
        super().__init__()
        self.cv1 = Conv(channels, 2 * layer.hidden)
        self.cv2 = Conv(2 * layer.hidden, layer.width)
        self.attends = layer.kind == "C2PSA"
        self.m = nn.Sequential(
            *(AttentionBlock(layer.hidden) if self.attends else link(layer) for _ in range(layer.depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to ``[N, width, H, W]``."""
        first, second = self.cv1(x).chunk(2, 1)
        parts = [first, self.m(second)] if self.attends else [self.m(first), second]
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return out


class A2C2f(nn.Module):
    """A chain of area attention or C3k blocks, all of whose outputs are joined (arXiv:2502.12524)."""

    def __init__(self, channels: int, layer: Layer) -> None:
        super().__init__()
        self.cv1 = Conv(channels, layer.hidden)
        self.cv2 = Conv((1 + layer.depth) * layer.hidden, layer.width)
        self.gamma = nn.Parameter(torch.empty(layer.width)) if layer.residual else None
        self.m = nn.ModuleList(link(layer) for _ in range(layer.depth))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to ``[N, width, H, W]``."""
        parts = [self.cv1(x)]
        for each in self.m:
            parts.append(each(parts[-1]))
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return out if self.gamma is None else x + self.gamma.reshape(1, -1, 1, 1) * out


class SPPF(nn.Module):
    """Spatial pyramid pooling by small poolings in sequence instead of large ones in parallel."""

    def __init__(self, channels: int, layer: Layer, kernel: int = 5) -> None:
        super().__init__()
        self.cv1 = Conv(channels, layer.hidden, plain=layer.plain)
        self.cv2 = Conv((1 + layer.depth) * layer.hidden, layer.width)
        self.kernel, self.poolings = kernel, layer.depth
        self.shortcut = layer.shortcut and channels == layer.width

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to ``[N, width, H, W]``."""
        parts = [self.cv1(x)]
        for _ in range(self.poolings):
            parts.append(F.max_pool2d(parts[-1], self.kernel, stride=1, padding=self.kernel // 2))
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return x + out if self.shortcut else out


def link(layer: Layer) -> nn.Module:
    """Return one link of a layer's chain."""
    bottleneck = Bottleneck(layer.hidden, layer.inner, shortcut=layer.shortcut)
    if layer.links == "c3k":
        return C3k(layer.hidden, layer.inner, shortcut=layer.shortcut)
    if layer.links == "attention":
        return nn.Sequential(bottleneck, AttentionBlock(layer.hidden))
    if layer.links == "area":
        return nn.Sequential(*(AreaBlock(layer.hidden, layer.inner, layer.area) for _ in range(2)))
    return bottleneck


def block(channels: int, layer: Layer) -> nn.Module:
    """Return the module of a layer with weights, given its input channels."""
    if layer.kind == "Conv":
        return Conv(channels, layer.width, 3, 2)
    return _KINDS[layer.kind](channels, layer)


_KINDS = {"C2f": C2f, "C3k2": C2f, "C2": C2, "C2PSA": C2, "A2C2f": A2C2f, "SPPF": SPPF}


class Proto(nn.Module):
    """The prototypes of masks, at twice the resolution of the finest level.

    Args:
        levels: Channels of its input levels; the coarser ones are added to the finest.
        width: Hidden channels.
        prototypes: Number of prototypes.
    """

    def __init__(self, levels: tuple[int, ...], width: int, prototypes: int) -> None:
        super().__init__()
        self.merges = len(levels) > 1
        if self.merges:
            self.feat_refine = nn.ModuleList(Conv(channels, levels[0]) for channels in levels[1:])
            self.feat_fuse = Conv(levels[0], width, 3)
        self.cv1 = Conv(width if self.merges else levels[0], width, 3)
        self.upsample = nn.ConvTranspose2d(width, width, 2, 2)
        self.cv2 = Conv(width, width, 3)
        self.cv3 = Conv(width, prototypes)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Map levels, the finest ``[N, C, H, W]``, to ``[N, prototypes, 2 H, 2 W]``."""
        x = levels[0]
        if self.merges:
            for number, refine in enumerate(self.feat_refine, 1):
                x = x + F.interpolate(refine(levels[number]), scale_factor=float(2**number), mode="nearest")
            x = self.feat_fuse(x)
        out: Tensor = self.cv3(self.cv2(self.upsample(self.cv1(x))))
        return out


class DFL(nn.Module):
    """The expected distance of a distribution over bins (arXiv:2006.04388)."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bins, 1, 1, bias=False)
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """Map logits ``[N, 4 bins, A]`` to distances ``[N, 4, A]``, in cells of the anchor's level."""
        anchors = x.shape[2]
        share = x.reshape(-1, 4, self.bins, anchors).transpose(1, 2).softmax(1)
        out: Tensor = self.conv(share).reshape(-1, 4, anchors)
        return out


def branch(channels: int, width: int, out_channels: int, *, light: bool = False) -> nn.Sequential:
    """Return a branch of the head at one level, ``[N, channels, H, W]`` to ``[N, out_channels, H, W]``.

    A light branch has a depthwise and a 1 x 1 convolution in place of each 3 x 3 one.
    """
    if not light:
        return nn.Sequential(Conv(channels, width, 3), Conv(width, width, 3), nn.Conv2d(width, out_channels, 1))
    return nn.Sequential(
        nn.Sequential(Conv(channels, channels, 3, groups=channels), Conv(channels, width)),
        nn.Sequential(Conv(width, width, 3, groups=width), Conv(width, width)),
        nn.Conv2d(width, out_channels, 1),
    )
