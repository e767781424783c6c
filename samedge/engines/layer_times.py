"""How long each layer of a graph takes, as the backend that runs it tells.

A layer is what a backend runs at once: a node of the graph, several that it fused, or something of its own, such as a
change of layout. Each backend that can tell is a line of a table; see `samedge.engines.registry`. Knows arrays and
nothing of SAM.
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
from samedge.engines.selection.trials import noise
from samedge.errors import BackendUnavailableError, EngineError, UsageError
from samedge.plugins import resolve
from samedge.types import Array

WARM_UPS: Final = 2
"""Runs that do not count: the second one of a graph in onnxruntime may still prepare something."""


@dataclass(frozen=True, slots=True)
class LayerTime:
    """What one layer takes.

    Attributes:
        name: What the backend calls it.
        operator: What the backend says that it does, such as "Gemm", "FullyConnected" or "Reorder".
        kernel: The implementation, where the backend names it: "brgemm_avx512_f32".
        milliseconds: Of one run; the median over runs.
        best: Of the fastest run; 0 where there was one alone.
        sources: Nodes of the graph that it does, by name, where the backend tells.
        nbytes: Bytes that it reads and writes, where the backend tells.
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
    """The layers of one graph on one backend.

    Attributes:
        backend: Which.
        device: Where it ran.
        details: What the backend says about how it ran.
        layers: In the order of their execution.
        run_ms: Wall time of one run as a caller sees it, the median; copies to and from a device are in it.
        runs: How many there were.
        shapes: Of each input.
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
        """What the layers take together."""
        return sum(layer.milliseconds for layer in self.layers)


class ProfiledEngine(RawEngine, Protocol):
    """An engine that was opened so that it tells about its layers."""

    def layer_times(self, warm_ups: int) -> list[LayerTime]:
        """Return what all runs so far took, the first ones left out; nothing runs afterwards."""
        ...


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
    """Run a graph some times and returns what its layers take.

    Args:
        path: The graph file.
        backend: Name of a backend.
        device: As for `samedge.engines.registry.open_engine`.
        threads: CPU threads.
        sizes: Sizes for free axes by name; 1 for those that are not named.
        runs: Runs that count.
        warm_ups: Runs before them that do not.
        feeds: What to run it on; noise if left out.
        opener: Opens the engine in place of the backend's own.

    Raises:
        UsageError: `runs` or `threads` is less than 1.
        BackendUnavailableError: The backend is not installed.
        DeviceUnavailableError: The device cannot be had.
        EngineError: The graph cannot be opened or run.
    """
    if runs < 1 or warm_ups < 0:
        raise UsageError(f"{runs} runs and {warm_ups} warm-ups are wanted", cure="Ask for one run or more")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", cure="Give 1 or more, or leave it out for all physical cores")
    line = find_backend(backend)
    if not path.is_file():
        raise EngineError("there is no such graph file", where=path, cure="Check the path")
    if opener is None:
        found = line.factory().probe()
        if not found.ok:
            raise BackendUnavailableError(
                f"the backend {line.name!r} does not work here: {found.reason}", cure=line.cure(found)
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
    """Return the layers with the medians of their times; all runs have the same layers in the same order.

    Raises:
        EngineError: They do not.
    """
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
