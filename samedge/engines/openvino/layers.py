"""Layer times of OpenVINO, from a request's counters and the compiled graph's record of fused nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

from samedge.engines.layer_times import LayerTime, median_layers
from samedge.engines.openvino.engine import OpenVinoEngine
from samedge.engines.protocol import EngineOptions
from samedge.types import Array

_BITS: Final = {"f32": 32, "f16": 16, "bf16": 16, "f64": 64, "i64": 64, "u64": 64, "i32": 32, "u32": 32}
"""Bits per value by OpenVINO's type name; 8 for the others: i8, u8, boolean."""


class ProfiledOpenVinoEngine(OpenVinoEngine):
    """A compiled graph with performance counters."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        super().__init__(path, options, counters=True)
        self._runs: list[list[LayerTime]] = []
        self._facts = {
            str(node.get_friendly_name()): _facts(node) for node in self._compiled.get_runtime_model().get_ordered_ops()
        }

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph and record its counters."""
        results = super().run(feeds, outputs)
        # A layer of less than a microsecond counts as executed in some runs only.
        self._runs.append([self._layer(counter) for counter in self._request.get_profiling_info()])
        return results

    def layer_times(self, warm_ups: int) -> list[LayerTime]:
        """Return the layer times, without layers that took no time."""
        return [layer for layer in median_layers(self._runs[warm_ups:]) if layer.milliseconds > 0]

    def _layer(self, counter: Any) -> LayerTime:
        sources, nbytes = self._facts.get(str(counter.node_name), ((), None))
        return LayerTime(
            name=str(counter.node_name),
            operator=str(counter.node_type),
            milliseconds=counter.real_time.total_seconds() * 1e3,
            kernel=str(counter.exec_type),
            sources=sources,
            nbytes=nbytes,
        )


def _facts(node: Any) -> tuple[tuple[str, ...], int | None]:
    """Return the graph nodes of a layer, and the bytes that it reads and writes."""
    facts = node.get_rt_info()
    text = _text(facts["originalLayersNames"]) if "originalLayersNames" in facts else ""
    ports = [*node.inputs(), *node.outputs()]
    if not all(port.get_partial_shape().is_static for port in ports):
        nbytes = None
    else:
        nbytes = sum(
            prod(int(size) for size in port.get_shape()) * _BITS.get(port.get_element_type().get_type_name(), 8) // 8
            for port in ports
        )
    return tuple(name for name in text.split(",") if name), nbytes


def _text(value: Any) -> str:
    return str(value.value if hasattr(value, "value") else value)
