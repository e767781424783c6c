"""The blocks that YOLOv8 is made of, with the module names of Ultralytics' weights and batch norms folded in."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv(nn.Module):
    """A convolution that keeps the size (divided by the stride), and SiLU."""

    def __init__(self, channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to ``[N, out_channels, H / stride, W / stride]``."""
        return F.silu(self.conv(x))


class Bottleneck(nn.Module):
    """Two 3 x 3 convolutions, with or without a way around them."""

    def __init__(self, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels, 3)
        self.cv2 = Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape as x."""
        out: Tensor = self.cv2(self.cv1(x))
        return x + out if self.shortcut else out


class C2f(nn.Module):
    """A cross-stage partial block: half of the channels passes a chain of bottlenecks, and every link's output counts.

    Args:
        channels: Of the input.
        out_channels: Of the output; half as many go through the chain.
        depth: Bottlenecks.
        shortcut: Of the bottlenecks.
    """

    def __init__(self, channels: int, out_channels: int, depth: int, *, shortcut: bool) -> None:
        super().__init__()
        width = out_channels // 2
        self.cv1 = Conv(channels, 2 * width)
        self.cv2 = Conv((2 + depth) * width, out_channels)
        self.m = nn.ModuleList(Bottleneck(width, shortcut=shortcut) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to ``[N, out_channels, H, W]``."""
        parts = list(self.cv1(x).chunk(2, 1))
        for link in self.m:
            parts.append(link(parts[-1]))
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return out


class SPPF(nn.Module):
    """Spatial pyramid pooling by three small poolings in a row instead of three large ones side by side."""

    def __init__(self, channels: int, kernel: int = 5) -> None:
        super().__init__()
        width = channels // 2
        self.cv1 = Conv(channels, width)
        self.cv2 = Conv(4 * width, channels)
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape as x."""
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], self.kernel, stride=1, padding=self.kernel // 2))
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return out


class Proto(nn.Module):
    """The prototypes that masks are sums of, at twice the resolution of the finest level."""

    def __init__(self, channels: int, width: int, prototypes: int) -> None:
        super().__init__()
        self.cv1 = Conv(channels, width, 3)
        self.upsample = nn.ConvTranspose2d(width, width, 2, 2)
        self.cv2 = Conv(width, width, 3)
        self.cv3 = Conv(width, prototypes)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to ``[N, prototypes, 2 H, 2 W]``."""
        out: Tensor = self.cv3(self.cv2(self.upsample(self.cv1(x))))
        return out


class DFL(nn.Module):
    """The expected distance under a distribution over bins (arXiv:2006.04388)."""

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


def branch(channels: int, width: int, out_channels: int) -> nn.Sequential:
    """Return one branch of the head at one level: ``[N, channels, H, W]`` to ``[N, out_channels, H, W]``."""
    return nn.Sequential(Conv(channels, width, 3), Conv(width, width, 3), nn.Conv2d(width, out_channels, 1))
