"""YOLOv8, YOLO11, YOLO12 and YOLO26 as detectors and segmenters, and FastSAM, a YOLOv8 segmenter of one class.

Module names follow Ultralytics', so that their weights load; outputs are those of their exported graphs. Boxes are
decoded in the graph but not suppressed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samedge.models.yolo.architectures import Layer
from samedge.models.yolo.blocks import DFL, Proto, block, branch

MANY: Final = ""
ONE: Final = "one2one_"
_UNWEIGHTED: Final = ("Upsample", "Concat")


@dataclass(frozen=True, slots=True)
class YoloConfig:
    """Architecture and sizes of a YOLO.

    Attributes:
        architecture: Its line in `samedge.models.yolo.architectures`.
        layers: Layers before the head.
        levels: Indices of the layers that the head reads, finest first.
        classes: Number of classes.
        bins: Bins of the distribution of a box side; 1 for a plain distance.
        box_width: Hidden channels of the head's box branch.
        class_width: Hidden channels of its class branch.
        prototypes: Number of prototypes, and of mask coefficients per box; 0 for a detector.
        mask_width: Hidden channels of the branch of mask coefficients; 0 for a detector.
        prototype_width: Hidden channels of the prototypes; 0 for a detector.
        light: The class branch is depthwise.
        heads: Prefixes of the head's branches: "" for several boxes per object, to be suppressed; "one2one_" for one
            box per object.
        merged: Prototypes are made from all levels.
    """

    architecture: str
    layers: tuple[Layer, ...]
    levels: tuple[int, ...]
    classes: int
    bins: int
    box_width: int
    class_width: int
    prototypes: int = 0
    mask_width: int = 0
    prototype_width: int = 0
    light: bool = False
    heads: tuple[str, ...] = (MANY,)
    merged: bool = False

    @property
    def segments(self) -> bool:
        """True if the model returns masks."""
        return self.prototypes > 0

    @property
    def one_to_one(self) -> bool:
        """True if the only head returns one box per object, so that none need be suppressed."""
        return self.heads == (ONE,)

    @property
    def head_layer(self) -> int:
        """Index of the head among the layers."""
        return len(self.layers)

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the levels, px."""
        strides: list[int] = []
        for number, layer in enumerate(self.layers):
            stride = strides[_absolute(number, layer.sources[0])] if number else 1
            strides.append({"Conv": 2 * stride, "Upsample": stride // 2}.get(layer.kind, stride))
        return tuple(strides[level] for level in self.levels)

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels of the levels."""
        return tuple(self.layers[level].width for level in self.levels)


class Head(nn.Module):
    """Levels to boxes, class scores and, in a segmenter, mask coefficients and prototypes."""

    def __init__(self, config: YoloConfig) -> None:
        super().__init__()
        widths = config.level_widths
        for head in config.heads:
            self._add(f"{head}cv2", widths, config.box_width, 4 * config.bins)
            self._add(f"{head}cv3", widths, config.class_width, config.classes, light=config.light)
            if config.segments:
                self._add(f"{head}cv4", widths, config.mask_width, config.prototypes)
        self._branches = tuple(f"{config.heads[0]}{name}" for name in ("cv2", "cv3", "cv4"))
        self.dfl = DFL(config.bins) if config.bins > 1 else nn.Identity()
        self.segments, self.strides = config.segments, config.strides
        if config.segments:
            levels = widths if config.merged else widths[:1]
            self.proto = Proto(levels, config.prototype_width, config.prototypes)

    def _add(self, name: str, widths: tuple[int, ...], inner: int, out: int, *, light: bool = False) -> None:
        self.add_module(name, nn.ModuleList(branch(width, inner, out, light=light) for width in widths))

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs of `Yolo`."""
        outputs = [self._flat(name, levels) for name in self._branches[: 3 if self.segments else 2]]
        parts = [_decode(self.dfl(outputs[0]), levels, self.strides), outputs[1].sigmoid(), *outputs[2:]]
        out = torch.cat(parts, 1)
        return (out, self.proto(levels)) if self.segments else (out,)

    def _flat(self, name: str, levels: list[Tensor]) -> Tensor:
        """Return the output of a branch at all levels, ``[N, C, A]``."""
        branches = self.get_submodule(name).children()
        return torch.cat([each(level).flatten(2) for each, level in zip(branches, levels, strict=True)], 2)


class Yolo(nn.Module):
    """Images to boxes with scores and, in a segmenter, mask coefficients and prototypes.

    Attributes:
        config: Its architecture and sizes.
    """

    def __init__(self, config: YoloConfig) -> None:
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict()
        widths: list[int] = []
        for number, layer in enumerate(config.layers):
            channels = [widths[_absolute(number, source)] for source in layer.sources] if number else [3]
            if layer.kind not in _UNWEIGHTED:
                self.model[str(number)] = block(channels[0], layer)
            widths.append(layer.width or sum(channels))
        self.model[str(config.head_layer)] = Head(config)

    def with_head(self, head: str) -> Yolo:
        """Return the model with only one of its heads, `MANY` or `ONE`; weights are shared."""
        with torch.device("meta"):
            model = Yolo(replace(self.config, heads=(head,)))
        state = self.state_dict()
        model.load_state_dict({key: state[key] for key in model.state_dict()}, strict=True, assign=True)
        return model.eval().requires_grad_(requires_grad=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the model.

        Args:
            images: float32 ``[N, 3, H, W]``, RGB 0..1, H and W multiples of the coarsest stride.

        Returns:
            ``output0`` float32 ``[N, 4 + classes + prototypes, A]``: for each anchor the centre x and y, width and
                height of its box in px of the input, class scores 0..1, and mask coefficients. A segmenter also returns
                ``output1``, the prototypes float32 ``[N, prototypes, H / S, W / S]``, S half the finest stride.
        """
        outputs: list[Tensor] = []
        for number, layer in enumerate(self.config.layers):
            inputs = [outputs[_absolute(number, source)] for source in layer.sources] if number else [images]
            if layer.kind == "Upsample":
                outputs.append(F.interpolate(inputs[0], scale_factor=2.0, mode="nearest"))
            elif layer.kind == "Concat":
                outputs.append(torch.cat(inputs, 1))
            else:
                outputs.append(self.model[str(number)](inputs[0]))
        out: tuple[Tensor, ...] = self.model[str(self.config.head_layer)](
            [outputs[level] for level in self.config.levels]
        )
        return out


def _absolute(number: int, source: int) -> int:
    return number + source if source < 0 else source


def _decode(distances: Tensor, levels: list[Tensor], strides: tuple[int, ...]) -> Tensor:
    """Return boxes ``[N, 4, A]`` (centre, width, height in px) from distances to the four sides, in cells."""
    cells = [_cells(level, stride) for level, stride in zip(levels, strides, strict=True)]
    centre, stride = (torch.cat(parts, 1) for parts in zip(*cells, strict=True))
    before, after = distances.chunk(2, 1)
    box = torch.cat([centre + (after - before) / 2, before + after], 1)
    return box * stride


def _cells(level: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Return the centres (x, y) of a level's cells, in cells, ``[2, h w]``, and their strides, ``[1, h w]``."""
    height, width = level.shape[2:]
    x = torch.arange(width, dtype=torch.float32, device=level.device) + 0.5
    y = torch.arange(height, dtype=torch.float32, device=level.device) + 0.5
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([grid_x, grid_y]).flatten(1)
    return centres, torch.full_like(centres[:1], float(stride))
