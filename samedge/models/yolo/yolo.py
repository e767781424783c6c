"""YOLOv8 as detector and as segmenter, and FastSAM, which is a YOLOv8 segmenter of one class.

Module names follow Ultralytics', so that their weights load; outputs are those of their exported graphs. Boxes are
decoded in the graph, suppression is not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samedge.models.yolo.blocks import DFL, SPPF, C2f, Conv, Proto, branch

STRIDES: Final = (8, 16, 32)
"""Of the three levels, px."""

C2F_LAYERS: Final = (2, 4, 6, 8, 12, 15, 18, 21)
HEAD_LAYER: Final = 22
LAYER_KINDS: Final = (
    "Conv", "Conv", "C2f", "Conv", "C2f", "Conv", "C2f", "Conv", "C2f", "SPPF",
    "Upsample", "Concat", "C2f", "Upsample", "Concat", "C2f", "Conv", "Concat", "C2f", "Conv", "Concat", "C2f",
)  # fmt: skip
"""Ultralytics' names of the layers before the head."""
SHORTCUT_LAYERS: Final = (2, 4, 6, 8)


@dataclass(frozen=True, slots=True)
class YoloConfig:
    """Sizes of a YOLOv8.

    Attributes:
        widths: Channels at strides 2, 4, 8, 16 and 32.
        depths: Bottlenecks of the blocks `C2F_LAYERS`.
        classes: Number of classes.
        bins: Bins of the distribution over a box side.
        box_width: Hidden channels of the head's branch for boxes.
        class_width: Hidden channels of its branch for classes.
        prototypes: Number of prototypes, and of mask coefficients a box; 0 for a detector.
        mask_width: Hidden channels of the branch for mask coefficients; 0 for a detector.
        prototype_width: Hidden channels of the prototypes; 0 for a detector.
    """

    widths: tuple[int, int, int, int, int]
    depths: tuple[int, ...]
    classes: int
    bins: int
    box_width: int
    class_width: int
    prototypes: int = 0
    mask_width: int = 0
    prototype_width: int = 0

    @property
    def segments(self) -> bool:
        """True if the model gives masks."""
        return self.prototypes > 0


class Head(nn.Module):
    """The three levels to boxes, class scores and, in a segmenter, mask coefficients and prototypes."""

    def __init__(self, config: YoloConfig) -> None:
        super().__init__()
        levels = config.widths[2:]
        self.cv2 = nn.ModuleList(branch(width, config.box_width, 4 * config.bins) for width in levels)
        self.cv3 = nn.ModuleList(branch(width, config.class_width, config.classes) for width in levels)
        self.dfl = DFL(config.bins)
        self.segments = config.segments
        if config.segments:
            self.proto = Proto(levels[0], config.prototype_width, config.prototypes)
            self.cv4 = nn.ModuleList(branch(width, config.mask_width, config.prototypes) for width in levels)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs of `Yolo`."""
        boxes = _decode(self.dfl(_flat(self.cv2, levels)), levels)
        parts = [boxes, _flat(self.cv3, levels).sigmoid()]
        if not self.segments:
            return (torch.cat(parts, 1),)
        return torch.cat([*parts, _flat(self.cv4, levels)], 1), self.proto(levels[0])


class Yolo(nn.Module):
    """Images to boxes with scores, and mask coefficients and prototypes where the model segments.

    Args:
        config: Its sizes.

    Attributes:
        config: As given.
    """

    def __init__(self, config: YoloConfig) -> None:
        super().__init__()
        self.config = config
        c1, c2, c3, c4, c5 = config.widths
        d = dict(zip(C2F_LAYERS, config.depths, strict=True))
        self.model = nn.ModuleDict(
            {
                "0": Conv(3, c1, 3, 2),
                "1": Conv(c1, c2, 3, 2),
                "2": C2f(c2, c2, d[2], shortcut=True),
                "3": Conv(c2, c3, 3, 2),
                "4": C2f(c3, c3, d[4], shortcut=True),
                "5": Conv(c3, c4, 3, 2),
                "6": C2f(c4, c4, d[6], shortcut=True),
                "7": Conv(c4, c5, 3, 2),
                "8": C2f(c5, c5, d[8], shortcut=True),
                "9": SPPF(c5),
                "12": C2f(c5 + c4, c4, d[12], shortcut=False),
                "15": C2f(c4 + c3, c3, d[15], shortcut=False),
                "16": Conv(c3, c3, 3, 2),
                "18": C2f(c3 + c4, c4, d[18], shortcut=False),
                "19": Conv(c4, c4, 3, 2),
                "21": C2f(c4 + c5, c5, d[21], shortcut=False),
                "22": Head(config),
            }
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the model.

        Args:
            images: float32 ``[N, 3, H, W]``, RGB 0..1, H and W multiples of 32.

        Returns:
            ``output0`` float32 ``[N, 4 + classes + prototypes, A]``: for each anchor the centre x and y, width and
            height of its box in px of the input, the score of each class 0..1, and the mask coefficients. A segmenter
            gives ``output1`` too, the prototypes, float32 ``[N, prototypes, H / 4, W / 4]``.
        """
        run = self.model
        x = run["2"](run["1"](run["0"](images)))
        level3 = run["4"](run["3"](x))
        level4 = run["6"](run["5"](level3))
        level5 = run["9"](run["8"](run["7"](level4)))
        middle = run["12"](torch.cat([_twice(level5), level4], 1))
        fine = run["15"](torch.cat([_twice(middle), level3], 1))
        middle = run["18"](torch.cat([run["16"](fine), middle], 1))
        coarse = run["21"](torch.cat([run["19"](middle), level5], 1))
        out: tuple[Tensor, ...] = run["22"]([fine, middle, coarse])
        return out


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _flat(branches: nn.ModuleList, levels: list[Tensor]) -> Tensor:
    """Return what a branch says at all levels, ``[N, C, A]``."""
    return torch.cat([each(level).flatten(2) for each, level in zip(branches, levels, strict=True)], 2)


def _decode(distances: Tensor, levels: list[Tensor]) -> Tensor:
    """Return boxes ``[N, 4, A]`` (centre, width, height in px) from distances to the four sides, in cells."""
    centres, strides = zip(*(_cells(level, stride) for level, stride in zip(levels, STRIDES, strict=True)), strict=True)
    centre, stride = torch.cat(centres, 1), torch.cat(strides, 1)
    before, after = distances.chunk(2, 1)
    box = torch.cat([centre + (after - before) / 2, before + after], 1)
    return box * stride


def _cells(level: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Return the centres (x, y) of a level's cells, in cells, ``[2, h w]``, and the stride of each, ``[1, h w]``."""
    height, width = level.shape[2:]
    x = torch.arange(width, dtype=torch.float32, device=level.device) + 0.5
    y = torch.arange(height, dtype=torch.float32, device=level.device) + 0.5
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([grid_x, grid_y]).flatten(1)
    return centres, torch.full_like(centres[:1], float(stride))
