"""Architecture and sizes of a YOLO, read from the keys and shapes of its weights."""

from __future__ import annotations

import re
from dataclasses import replace

from samedge.models.checkpoints.shapes import MisfitError, State, count_entries, shape_of
from samedge.models.yolo.architectures import ARCHITECTURES, Layer, architecture
from samedge.models.yolo.yolo import MANY, ONE, YoloConfig


def yolo_sizes(state: State) -> YoloConfig:
    """Return the architecture and sizes of a YOLO with batch norms folded.

    Raises:
        MisfitError: The architecture is unknown, or a weight is missing or has a wrong shape.
    """
    name = _architecture_name(state)
    table = architecture(name)
    head = f"model.{len(table.layers)}"
    heads = tuple(each for each in (MANY, ONE) if any(key.startswith(f"{head}.{each}cv2.") for key in state)) or (MANY,)
    first = f"{head}.{heads[0]}"
    sides = shape_of(state, f"{first}cv2.0.2.weight", 4)[0]
    if sides % 4:
        raise MisfitError(f"its head returns {sides} numbers for the four sides of a box")
    segments = any(key.startswith(f"{head}.proto.") for key in state)
    light = f"{first}cv3.0.0.0.conv.weight" in state
    return YoloConfig(
        architecture=name,
        layers=tuple(_sized(layer, state, f"model.{number}") for number, layer in enumerate(table.layers)),
        levels=table.levels,
        classes=shape_of(state, f"{first}cv3.0.2.weight", 4)[0],
        bins=sides // 4,
        box_width=shape_of(state, f"{first}cv2.0.0.conv.weight", 4)[0],
        class_width=shape_of(state, f"{first}cv3.0.0.{'1.' if light else ''}conv.weight", 4)[0],
        prototypes=shape_of(state, f"{first}cv4.0.2.weight", 4)[0] if segments else 0,
        mask_width=shape_of(state, f"{first}cv4.0.0.conv.weight", 4)[0] if segments else 0,
        prototype_width=shape_of(state, f"{head}.proto.cv1.conv.weight", 4)[0] if segments else 0,
        light=light,
        heads=heads,
        merged=f"{head}.proto.feat_fuse.conv.weight" in state,
    )


def _architecture_name(state: State) -> str:
    numbers = {int(match[1]) for key in state if (match := re.match(r"model\.(\d+)\.", key))}
    alike = ""
    for name in ARCHITECTURES:
        layers = architecture(name).layers
        if numbers == {*(number for number, layer in enumerate(layers) if layer.width), len(layers)}:
            if all(_fits(layer, state, number) for number, layer in enumerate(layers)):
                return name
            alike = alike or name
    if not alike:
        raise MisfitError(f"its {max(numbers, default=-1) + 1} layers are those of no known architecture")
    return alike  # some of its layers differ: reading their sizes reports which


def _fits(layer: Layer, state: State, number: int) -> bool:
    """Return True if the keys of a layer are those of its kind."""
    prefix = f"model.{number}"
    if layer.links == "attention":
        return f"{prefix}.m.0.1.attn.qkv.conv.weight" in state
    if layer.kind == "A2C2f":
        return (f"{prefix}.m.0.0.attn.qkv.conv.weight" in state) == (layer.links == "area")
    if layer.kind == "C3k2":
        return f"{prefix}.m.0.1.attn.qkv.conv.weight" not in state
    return True


def _sized(layer: Layer, state: State, prefix: str) -> Layer:
    """Return a layer with the sizes of the weights under a prefix."""

    def channels(key: str) -> int:
        return shape_of(state, f"{prefix}.{key}.conv.weight", 4)[0]

    if not layer.width:
        return layer
    if layer.kind == "Conv":
        return replace(layer, width=shape_of(state, f"{prefix}.conv.weight", 4)[0])
    hidden = channels("cv1")
    if layer.kind == "SPPF":
        depth = shape_of(state, f"{prefix}.cv2.conv.weight", 4)[1] // hidden - 1
        return replace(layer, width=channels("cv2"), hidden=hidden, depth=depth)
    if layer.kind != "A2C2f":
        hidden //= 2
    links, inner = layer.links, f"{prefix}.m.0.cv1.conv.weight"
    if links in ("bottleneck", "c3k"):
        links = "c3k" if f"{prefix}.m.0.cv3.conv.weight" in state else "bottleneck"
    elif links == "attention":
        inner = f"{prefix}.m.0.0.cv1.conv.weight"
    elif links == "area":
        inner = f"{prefix}.m.0.0.mlp.0.conv.weight"
    if layer.kind == "C2PSA":
        inner = f"{prefix}.m.0.ffn.0.conv.weight"
    return replace(
        layer,
        width=channels("cv2"),
        hidden=hidden,
        depth=count_entries(state, f"{prefix}.m"),
        links=links,
        inner=shape_of(state, inner, 4)[0],
        residual=f"{prefix}.gamma" in state,
    )
