"""Execution time of each layer of a graph, as reported by its backend.

A layer is one unit of execution: a node of the graph, several fused nodes, or an addition of the backend's own, such as
a layout change. Each backend that supports profiling is one line of a table; see `samedge.engines.registry`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Protocol, cast

from samedge.engines.protocol import Engine, EngineOptions, RawEngine
from samedge.engines.registry import find_backend
from samedge.engines.trials import noise
from samedge.errors import BackendUnavailableError, EngineError, UsageError
from samedge.families import resolve
from samedge.types import Array

WARM_UPS: Final = 2
"""Uncounted runs: onnxruntime may still prepare a graph in its second run."""


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Execution time of one layer.

    Attributes:
        name: The backend's name for it.
        operator: Its kind as the backend reports it, such as "Gemm", "FullyConnected" or "Reorder".
        kernel: The implementation, if the backend names it: "brgemm_avx512_f32".
        milliseconds: Median over the runs.
        best: Fastest run; 0 if there was only one.
        sources: Names of the graph nodes that it computes, if the backend reports them.
        nbytes: Bytes read and written, if the backend reports them.
    """

    name: str
    operator: str
    milliseconds: float
    kernel: str = ""
    sources: tuple[str, ...] = ()
    nbytes: int | None = None
    best: float = 0.0


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """Layer times of one graph on one backend.

    Attributes:
        backend: Name of the backend.
        device: Device that ran the graph.
        details: The engine's own description of how it ran.
        layers: In execution order.
        run_ms: Median wall time of one run as seen by the caller, including copies to and from the device.
        runs: Number of counted runs.
        shapes: Input name to shape.
    """

    backend: str
    device: str
    details: Mapping[str, str]
    layers: tuple[LayerTime, ...]
    run_ms: float
    runs: int
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def layers_ms(self) -> float:
        """Sum of the layer times, milliseconds."""
        return sum(layer.milliseconds for layer in self.layers)


class ProfiledEngine(RawEngine, Protocol):
    """An engine opened with profiling enabled."""

    def layer_times(self, warm_ups: int) -> list[LayerTime]:
        """End profiling and return the times of all runs so far, without the warm-ups."""


OpenProfiled = Callable[[Path, EngineOptions], ProfiledEngine]


def profile_layers(
    path: Path,
    *,
    backend: str,
    device: str | None = None,
    threads: int | None = None,
    sizes: Mapping[str, int] | None = None,
    runs: int = 5,
    warm_ups: int = WARM_UPS,
    feeds: Mapping[str, Array] | None = None,
    opener: OpenProfiled | None = None,
) -> LayerProfile:
    """Run a graph repeatedly and return the execution time of each layer.

    Args:
        path: The graph file.
        backend: Name of a backend.
        device: As for `samedge.engines.registry.open_engine`.
        threads: CPU threads.
        sizes: Size of each free axis by name; 1 for axes not named.
        runs: Counted runs.
        warm_ups: Uncounted runs before them.
        feeds: Inputs to run on; noise if omitted.
        opener: Opens the engine in place of the backend's own class.

    Raises:
        UsageError: `runs` or `threads` is less than 1.
        BackendUnavailableError: The backend is not installed.
        DeviceUnavailableError: The device is unavailable.
        EngineError: The graph cannot be opened or run.
    """
    if runs < 1 or warm_ups < 0:
        raise UsageError(f"invalid counts: {runs} runs and {warm_ups} warm-ups", cure="Request one run or more")
    if threads is not None and threads < 1:
        raise UsageError(
            f"invalid number of threads: {threads}", cure="Give 1 or more, or omit it for all physical cores"
        )
    line = find_backend(backend)
    if not path.is_file():
        raise EngineError("graph file not found", where=path, cure="Check the path")
    if opener is None:
        found = line.factory().probe()
        if not found.ok:
            raise BackendUnavailableError(
                f"the backend {line.name!r} is unavailable: {found.reason}", cure=line.cure(found)
            )
        if not line.profiler:
            raise UsageError(
                f"the backend {line.name!r} does not tell what its layers take", cure="Profile with another backend"
            )
        opener = cast("OpenProfiled", resolve(line.profiler))
    raw = opener(path, EngineOptions(device=device, threads=threads))
    with Engine(raw, backend=line.name, name=path.name) as engine:
        given = dict(noise(engine.inputs, sizes or {}) if feeds is None else feeds)
        times: list[float] = []
        for _ in range(warm_ups + runs):
            begun = time.perf_counter()
            engine.run(given)
            times.append((time.perf_counter() - begun) * 1e3)
        layers = tuple(raw.layer_times(warm_ups))
        details = dict(raw.details)
    shapes = {name: array.shape for name, array in given.items()}
    return LayerProfile(line.name, engine.device, details, layers, median(times[warm_ups:]), runs, shapes)


def median_layers(runs: Sequence[Sequence[LayerTime]]) -> list[LayerTime]:
    """Return the layers with the medians of their times. Every run must have the same layers in the same order."""
    names = [[layer.name for layer in layers] for layers in runs]
    if not runs or any(own != names[0] for own in names):
        raise EngineError("the runs of this graph have different layers", cure="Profile it with other sizes")
    return [
        LayerTime(
            first.name,
            first.operator,
            median(layers[at].milliseconds for layers in runs),
            first.kernel,
            first.sources,
            first.nbytes,
            min(layers[at].milliseconds for layers in runs),
        )
        for at, first in enumerate(runs[0])
    ]
