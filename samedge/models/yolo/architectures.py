"""The architectures that Ultralytics releases: their layers, connections and channels.

A line of `ARCHITECTURES` lists the layers before the head. ``up6`` upsamples and concatenates layer 6; ``down12``
convolves with stride 2 and concatenates layer 12; a star marks a level that the head reads. After a colon come the
channels before scaling, then ``x3`` for three links. Flags: ``+`` residual links, ``k`` C3k links, ``q`` a chain with a
quarter of the channels, ``a`` attention links, ``p`` a first convolution without activation, ``/4`` attention within
four areas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

_BACKBONE_8: Final = "Conv:64 Conv:128 C2f:128x3+ Conv:256 C2f:256x6+ Conv:512 C2f:512x6+"
_BACKBONE_11: Final = "Conv:64 Conv:128 C3k2:256x2+q Conv:256 C3k2:512x2+q Conv:512"

ARCHITECTURES: Final = {
    "yolov8": f"{_BACKBONE_8} Conv:1024 C2f:1024x3+ SPPF:1024x3 "
    "up6 C2f:512x3 up4 C2f:256x3* down12:256 C2f:512x3* down9:512 C2f:1024x3*",
    "yolov8-p2": f"{_BACKBONE_8} Conv:1024 C2f:1024x3+ SPPF:1024x3 "
    "up6 C2f:512x3 up4 C2f:256x3 up2 C2f:128x3* down15:128 C2f:256x3* down12:256 C2f:512x3* down9:512 C2f:1024x3*",
    "yolov8-p6": f"{_BACKBONE_8} Conv:768 C2f:768x3+ Conv:1024 C2f:1024x3+ SPPF:1024x3 "
    "up8 C2:768x3 up6 C2:512x3 up4 C2:256x3* down17:256 C2:512x3* down14:512 C2:768x3* down11:768 C2:1024x3*",
    "yolo11": f"{_BACKBONE_11} C3k2:512x2+k Conv:1024 C3k2:1024x2+k SPPF:1024x3 C2PSA:1024x2+ "
    "up6 C3k2:512x2+ up4 C3k2:256x2+* down13:256 C3k2:512x2+* down10:512 C3k2:1024x2+k*",
    "yolo12": f"{_BACKBONE_11} A2C2f:512x4a/4 Conv:1024 A2C2f:1024x4a "
    "up6 A2C2f:512x2+k up4 A2C2f:256x2+k* down11:256 A2C2f:512x2+k* down8:512 C3k2:1024x2+k*",
    "yolo26": f"{_BACKBONE_11} C3k2:512x2+k Conv:1024 C3k2:1024x2+k SPPF:1024x3+p C2PSA:1024x2+ "
    "up6 C3k2:512x2+k up4 C3k2:256x2+k* down13:256 C3k2:512x2+k* down10:512 C3k2:1024x1+a*",
    "yolo26-p2": f"{_BACKBONE_11} C3k2:512x2+k Conv:1024 C3k2:1024x2+k SPPF:1024x3+p C2PSA:1024x2+ "
    "up6 C3k2:512x2+k up4 C3k2:256x2+k up2 C3k2:128x2+k* down16:128 C3k2:256x2+k* down13:256 C3k2:512x2+k* "
    "down10:512 C3k2:1024x1+a*",
    "yolo26-p6": f"{_BACKBONE_11} C3k2:512x2+k Conv:768 C3k2:768x2+k Conv:1024 C3k2:1024x2+k SPPF:1024x3p "
    "C2PSA:1024x2+ up8 C3k2:768x2+k up6 C3k2:512x2+k up4 C3k2:256x2+k* down18:256 C3k2:512x2+k* down15:512 "
    "C3k2:768x2+k* down12:768 C3k2:1024x1+a*",
}
_TOKEN: Final = re.compile(
    r"(?P<kind>up|down|[A-Z]\w*?)(?P<source>(?<=up)\d+|(?<=down)\d+|)(:(?P<width>\d+))?(x(?P<depth>\d+))?"
    r"(?P<flags>[+kqap]*)(/(?P<area>\d))?(?P<level>\*?)"
)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer before the head, with its sizes.

    Attributes:
        kind: Name of Ultralytics' class.
        sources: Indices of its input layers; -1 for the previous one.
        width: Output channels; 0 for a layer without weights.
        hidden: Channels of its chain.
        depth: Links of its chain, or poolings of an SPPF.
        links: "bottleneck", "c3k", "attention" or "area".
        inner: Channels inside a link.
        shortcut: Its links are residual.
        plain: Its first convolution has no activation.
        area: Number of areas that attention is confined to.
        residual: It is residual itself, scaled per channel.
    """

    kind: str
    sources: tuple[int, ...] = (-1,)
    width: int = 0
    hidden: int = 0
    depth: int = 0
    links: str = "bottleneck"
    inner: int = 0
    shortcut: bool = False
    plain: bool = False
    area: int = 1
    residual: bool = False


@dataclass(frozen=True, slots=True)
class Architecture:
    """The layers of an architecture.

    Attributes:
        layers: Before the head.
        levels: Indices of the layers that the head reads, finest first.
        quarter: Indices of the layers whose chain has a quarter of the channels.
    """

    layers: tuple[Layer, ...]
    levels: tuple[int, ...]
    quarter: frozenset[int]


@cache
def architecture(name: str) -> Architecture:
    """Return a line of `ARCHITECTURES`, parsed and not yet scaled."""
    layers: list[Layer] = []
    levels, quarter = [], set()
    for token in ARCHITECTURES[name].split():
        match = _TOKEN.fullmatch(token)
        found = match.groupdict() if match else {}
        width, depth, flags = int(found["width"] or 0), int(found["depth"] or 0), found["flags"]
        if found["kind"] in ("up", "down"):
            step = Layer("Upsample") if found["kind"] == "up" else Layer("Conv", width=width)
            layers += [step, Layer("Concat", (-1, int(found["source"])))]
            continue
        links = "c3k" if "k" in flags else "bottleneck"
        if "a" in flags:
            links = "area" if found["kind"] == "A2C2f" else "attention"
        if found["level"]:
            levels.append(len(layers))
        if "q" in flags:
            quarter.add(len(layers))
        layers.append(
            Layer(
                found["kind"],
                width=width,
                depth=depth,
                links=links,
                shortcut="+" in flags,
                plain="p" in flags,
                area=int(found["area"] or 1),
            )
        )
    return Architecture(tuple(layers), tuple(levels), frozenset(quarter))


@dataclass(frozen=True, slots=True)
class Scale:
    """A released size: factors of links and channels, and a limit on the channels before scaling."""

    depth: float
    width: float
    most: int

    def channels(self, channels: int) -> int:
        """Scale channels, rounding up to a multiple of 8."""
        scaled = min(channels, self.most) * self.width
        return -(-int(scaled) // 8) * 8


SCALES: Final = {
    "yolov8": {
        "n": Scale(0.33, 0.25, 1024), "s": Scale(0.33, 0.5, 1024), "m": Scale(0.67, 0.75, 768),
        "l": Scale(1, 1, 512), "x": Scale(1, 1.25, 512),
    },
    "yolo": {
        "n": Scale(0.5, 0.25, 1024), "s": Scale(0.5, 0.5, 1024), "m": Scale(0.5, 1, 512),
        "l": Scale(1, 1, 512), "x": Scale(1, 1.5, 512),
    },
}  # fmt: skip
"""Sizes of YOLOv8, and of its successors."""


def scaled_layers(name: str, size: str) -> tuple[Layer, ...]:
    """Return the layers of an architecture in size "n", "s", "m", "l" or "x"."""
    scale = SCALES["yolov8" if name.startswith("yolov8") else "yolo"][size]
    table = architecture(name)
    return tuple(_scaled(layer, size, scale, quarter=i in table.quarter) for i, layer in enumerate(table.layers))


def _scaled(layer: Layer, size: str, scale: Scale, *, quarter: bool) -> Layer:
    if not layer.width:
        return layer
    width = scale.channels(layer.width)
    if layer.kind == "Conv":
        return replace(layer, width=width)
    links = layer.links
    if layer.kind == "C3k2" and size in "mlx" and links == "bottleneck":
        links = "c3k"
    hidden = width // 4 if quarter else width // 2
    deep = layer.kind == "SPPF" or layer.depth == 1
    residual = layer.kind == "A2C2f" and links == "area" and size in "lx"
    inner = {
        "C2f": hidden,
        "C2": hidden,
        "SPPF": 0,
        "C2PSA": 2 * hidden,
        "A2C2f": int(hidden * (1.2 if size in "lx" else 2.0)) if links == "area" else hidden // 2,
    }.get(layer.kind, hidden // 2)
    depth = layer.depth if deep else max(round(layer.depth * scale.depth), 1)
    return replace(layer, width=width, hidden=hidden, depth=depth, links=links, inner=inner, residual=residual)
