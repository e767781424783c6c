"""Layer times of TensorRT, from an ``IProfiler`` on a context and the engine's own layer information.

Layers are timed individually on the GPU's clock: the work is not captured into a CUDA graph, and a run takes slightly
longer than usual.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from samedge.engines.cuda.memory import CudaMemory
from samedge.engines.cuda.providers import open_cuda
from samedge.engines.layer_times import LayerTime, median_layers
from samedge.engines.protocol import EngineOptions
from samedge.engines.tensorrt.api import Flavour
from samedge.engines.tensorrt.engine import TensorRtEngine
from samedge.engines.tensorrt.protocols import CudaEngine, InspectedEngine, ProfiledContext
from samedge.types import Array

_NODE: Final = re.compile(r"\[ONNX Layer: ([^\]\x1e]+)")
_JOINED: Final = re.compile(r"\s\+\s|\x1e")

Report = Callable[[str, float], None]


class ProfiledTensorRtEngine(TensorRtEngine):
    """A plan whose layers are timed."""

    def __init__(
        self, path: Path, options: EngineOptions, *, flavour: Flavour | None = None, memory: CudaMemory | None = None
    ) -> None:
        memory = open_cuda(options.device) if memory is None else memory
        super().__init__(path, options, flavour=flavour, memory=cast("CudaMemory", _WithoutGraphs(memory)))
        self._runs: list[list[tuple[str, float]]] = []
        try:
            self._profiler = _profiler(self._flavour, lambda name, ms: self._runs[-1].append((name, ms)))
            cast("ProfiledContext", self._plan.context).profiler = self._profiler
            self._facts = _layer_facts(self._flavour, self._plan.engine)
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the plan and record the profiler's reports."""
        self._runs.append([])
        return super().run(feeds, outputs)

    def layer_times(self, warm_ups: int) -> list[LayerTime]:
        """Return the layer times."""
        return median_layers([[self._layer(name, ms) for name, ms in run] for run in self._runs[warm_ups:]])

    def _layer(self, name: str, milliseconds: float) -> LayerTime:
        kind, kernel, sources = self._facts.get(name, ("", "", ()))
        return LayerTime(name, kind or _kind_of(name), milliseconds, kernel, sources or _sources_of(name))


class ProfiledTensorRtRtxEngine(ProfiledTensorRtEngine):
    """A plan of TensorRT for RTX whose layers are timed."""

    flavour_name = "tensorrt-rtx"


class _WithoutGraphs:
    """A GPU without graph capture: a captured run reports nothing to a profiler."""

    captures = False

    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)


def _profiler(flavour: Flavour, report: Report) -> Any:
    """Return a TensorRT profiler, whose base class exists only once the package is imported."""
    base: Any = flavour.module.IProfiler

    class Listener(base):  # type: ignore[misc]  # known only at run time
        def __init__(self) -> None:
            base.__init__(self)  # without this, calls from TensorRT kill the process

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Record one layer; called by TensorRT."""
            report(str(layer_name), float(ms))

    return Listener()


def _layer_facts(flavour: Flavour, engine: CudaEngine) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Return kind, kernel and nodes of each layer; empty if the plan was built without detailed verbosity."""
    if not hasattr(engine, "create_engine_inspector") or not hasattr(flavour.module, "LayerInformationFormat"):
        return {}
    inspector = cast("InspectedEngine", engine).create_engine_inspector()
    text = inspector.get_engine_information(flavour.module.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text).get("Layers", [])
    except ValueError:
        return {}
    facts: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for layer in layers:
        if isinstance(layer, dict) and "Name" in layer:  # otherwise plain names, which the profiler reports too
            nodes = tuple(dict.fromkeys(_NODE.findall(str(layer.get("Metadata", "")))))
            kernel = str(layer.get("TacticName", ""))
            facts[str(layer["Name"])] = (str(layer.get("LayerType", "")), kernel, nodes)
    return facts


def _sources_of(name: str) -> tuple[str, ...]:
    """Return the nodes in a layer's name: "/a/MatMul + /a/Add"."""
    return tuple(part.strip() for part in _JOINED.split(name) if part.strip().startswith("/"))


def _kind_of(name: str) -> str:
    """Infer the kind of a layer from its name, such as "Reformatting CopyNode for ..."."""
    if name.startswith("{"):  # "{ForeignNode[/a.../b]}": many nodes, compiled as one
        return name.strip("{}").partition("[")[0]
    return name.split(" ", 1)[0].rsplit("/", 1)[-1]
