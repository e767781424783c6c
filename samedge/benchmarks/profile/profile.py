"""Profile of a graph: its layers with their time, their work, and their distance from the roof."""

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
        name: The backend's name for it, like `operator` and `kernel` (empty if the backend names none).
        kind: Its kind of work.
        nodes: The graph's nodes that it covers; none for a layer that the backend added or does not explain.
        precision: Compute precision of its products.
        ms: Milliseconds per run.
        share: Fraction of the time of all layers.
        gflop: 1e9 operations of products and convolutions.
        megabytes: 1e6 bytes in and out; None if unknown.
        gflops: 1e9 operations per second.
        gigabytes: 1e9 bytes per second; None if unknown.
        reached: Fraction of the roof: of operations at its intensity, or of bytes for a layer without products. None
            without a roof. It can exceed 1 for layers whose values stay in caches.
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
        """Operations per byte; None if the bytes are unknown."""
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
    """Profile of one graph.

    Attributes:
        schema: Version of this format.
        graph: Role or file of the graph.
        details: Details reported by the backend.
        shapes: Shapes of the inputs.
        run_ms: Median time of a run, as seen by a caller.
        layers_ms: Total time of all layers.
        gflop: 1e9 operations of the graph; None without an ONNX graph to count.
        expected_gflop: 1e9 operations of the torch model according to the manifest, if it does the same work.
        attributed: Fraction of the graph's operations that was attributed to layers.
        peaks: The roof; None if it was not measured.
        layers: The layers, in the order of execution.
        kinds: The kinds of work, by descending time.
        facts: Machine, versions, date.
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
        """1e9 operations per second over a whole run."""
        return None if self.gflop is None or not self.run_ms else self.gflop / self.run_ms * 1e3

    def top(self, count: int) -> list[LayerRow]:
        """Return the slowest layers."""
        return sorted(self.layers, key=lambda layer: -layer.ms)[:count]


def layer_rows(measured: LayerProfile, work: GraphWork | None, peaks: Peaks | None) -> tuple[LayerRow, ...]:
    """Return the layers with their work."""
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
    """Return the totals of each kind of work, by descending time.

    The fraction reached is the mean over its layers, weighted by time: the fraction to which its time would shrink at
    the roof.
    """
    total = sum(layer.ms for layer in layers)
    rows: list[KindRow] = []
    for kind in KINDS:
        own = [layer for layer in layers if layer.kind == kind]
        if own:
            ms, gflop = sum(layer.ms for layer in own), sum(layer.gflop for layer in own)
            known = [layer for layer in own if layer.reached is not None]
            known_ms = sum(layer.ms for layer in known)
            reached = sum(layer.ms * (layer.reached or 0.0) for layer in known) / known_ms if known_ms else None
            rows.append(
                KindRow(
                    kind, len(own), ms, ms / total if total else 0.0, gflop, gflop / ms * 1e3 if ms else 0.0, reached
                )
            )
    return tuple(sorted(rows, key=lambda row: -row.ms))
