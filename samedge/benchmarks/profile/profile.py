"""A profile: the layers of a graph with what they take, what they do, and how near that is to the roof."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from samedge.benchmarks.profile.graph_work import GraphWork, LayerWork
from samedge.benchmarks.profile.operators import KINDS, kind_of_operator
from samedge.benchmarks.profile.peaks import Peaks
from samedge.engines.layer_times import LayerProfile, LayerTime

SCHEMA: Final = 1

_KERNEL_PRECISION: Final = re.compile(r"_(f32|f16|bf16|i8|u8)$")
_OF_KERNEL: Final = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}


class LayerRow(msgspec.Struct, frozen=True):
    """A layer.

    Attributes:
        name: What the backend calls it.
        operator: What it does, in the backend's words.
        kernel: The implementation, where the backend names it.
        kind: What it is for.
        nodes: The graph's nodes that it does; none for what the backend added or does not tell.
        precision: What its products are computed in.
        ms: Milliseconds of a run.
        share: Of the time of all layers.
        gflop: 1e9 operations of products and convolutions.
        megabytes: 1e6 bytes in and out; None where they are not known.
        gflops: 1e9 operations a second.
        gigabytes: 1e9 bytes a second; None where the bytes are not known.
        reached: Share of what the roof allows: of operations at its intensity, or of bytes where it has no products.
            None where there is no roof. Layers whose values stay in caches can be above 1.
    """

    name: str
    operator: str
    kernel: str
    kind: str
    nodes: tuple[str, ...]
    precision: str
    ms: float
    share: float
    gflop: float
    megabytes: float | None
    gflops: float
    gigabytes: float | None
    reached: float | None

    @property
    def intensity(self) -> float | None:
        """Operations for each byte; None where the bytes are not known."""
        return None if not self.megabytes else self.gflop * 1e3 / self.megabytes


class KindRow(msgspec.Struct, frozen=True):
    """All layers of a kind."""

    kind: str
    layers: int
    ms: float
    share: float
    gflop: float
    gflops: float
    reached: float | None


class Profile(msgspec.Struct, frozen=True):
    """Where the time of one graph goes.

    Attributes:
        schema: Of this record.
        model: What was profiled.
        graph: Its role, or its file.
        backend: What ran it.
        device: Where.
        details: What the backend says about how it ran.
        shapes: Of the inputs.
        runs: Runs that counted.
        run_ms: A run as a caller sees it, the median.
        layers_ms: What all layers take together.
        gflop: 1e9 operations of the graph; None where there is no ONNX graph to count.
        expected_gflop: What the manifest says of the torch model, where it is the same work.
        attributed: Share of the graph's operations that were found in layers.
        peaks: The roof; None where it was not measured.
        layers: In the order of their execution.
        kinds: By falling time.
        facts: Machine, versions, moment.
        notes: What is to be known.
    """

    schema: int
    model: str
    graph: str
    backend: str
    device: str
    details: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    runs: int
    run_ms: float
    layers_ms: float
    gflop: float | None
    expected_gflop: float | None
    attributed: float | None
    peaks: Peaks | None
    layers: tuple[LayerRow, ...]
    kinds: tuple[KindRow, ...]
    facts: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def gflops(self) -> float | None:
        """1e9 operations a second over a whole run."""
        return None if self.gflop is None or not self.run_ms else self.gflop / self.run_ms * 1e3

    def top(self, count: int) -> list[LayerRow]:
        """Return the layers that take most."""
        return sorted(self.layers, key=lambda layer: -layer.ms)[:count]


def layer_rows(measured: LayerProfile, work: GraphWork | None, peaks: Peaks | None) -> tuple[LayerRow, ...]:
    """Return the layers with what they do.

    Args:
        measured: What they take.
        work: What the graph's nodes do; None where there is no ONNX graph.
        peaks: The roof, or None.
    """
    works: Sequence[LayerWork | None] = [None] * len(measured.layers)
    if work is not None:
        works = work.of_layers(measured.layers)
    total = measured.layers_ms
    return tuple(_row(layer, own, total, peaks) for layer, own in zip(measured.layers, works, strict=True))


def _row(layer: LayerTime, work: LayerWork | None, total: float, peaks: Peaks | None) -> LayerRow:
    kind = kind_of_operator(layer.operator) if work is None else work.kind
    precision = _OF_KERNEL[found[1]] if (found := _KERNEL_PRECISION.search(layer.kernel)) else None
    if precision is None:
        precision = "fp32" if work is None else work.precision
    flops = 0 if work is None else work.flops
    nbytes = layer.nbytes if work is None else work.nbytes
    seconds = layer.milliseconds / 1e3
    gflops = flops / seconds / 1e9 if seconds else 0.0
    gigabytes = nbytes / seconds / 1e9 if nbytes and seconds else None
    reached: float | None = None
    if peaks is not None and flops:
        roof = peaks.attainable(precision, flops / nbytes if nbytes else None)
        reached = gflops / roof if roof else None
    elif peaks is not None and gigabytes is not None:
        reached = gigabytes / peaks.gigabytes
    return LayerRow(
        layer.name,
        layer.operator,
        layer.kernel,
        kind,
        () if work is None else work.nodes,
        precision,
        layer.milliseconds,
        layer.milliseconds / total if total else 0.0,
        flops / 1e9,
        nbytes / 1e6 if nbytes else None,
        gflops,
        gigabytes,
        reached,
    )


def kind_rows(layers: Sequence[LayerRow]) -> tuple[KindRow, ...]:
    """Return what each kind takes together, by falling time.

    What is reached is the mean over its layers, weighted by time: what the kind's time would shrink to at the roof.
    """
    total = sum(layer.ms for layer in layers)
    rows: list[KindRow] = []
    for kind in KINDS:
        own = [layer for layer in layers if layer.kind == kind]
        if own:
            ms, gflop = sum(layer.ms for layer in own), sum(layer.gflop for layer in own)
            told = [layer for layer in own if layer.reached is not None]
            told_ms = sum(layer.ms for layer in told)
            reached = sum(layer.ms * (layer.reached or 0.0) for layer in told) / told_ms if told_ms else None
            rows.append(
                KindRow(
                    kind, len(own), ms, ms / total if total else 0.0, gflop, gflop / ms * 1e3 if ms else 0.0, reached
                )
            )
    return tuple(sorted(rows, key=lambda row: -row.ms))
