"""A backend from outside the package, in one module: graphs in numpy, by the reference operators of onnx."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from samedge.engines.layer_times import LayerTime
from samedge.engines.protocol import Availability, EngineOptions
from samedge.engines.registry import Backend
from samedge.types import Array, TensorSpec


class ToyEngine:
    """A graph in numpy."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        model = onnx.load(str(path))
        self._graph = ReferenceEvaluator(model)
        self.inputs, self.outputs = _specs(model.graph.input), _specs(model.graph.output)
        self.device = "cpu"
        self.details: Mapping[str, str] = {"onnx": onnx.__version__}
        self._milliseconds: list[float] = []

    @staticmethod
    def probe() -> Availability:
        return Availability(ok=True, reason=f"onnx {onnx.__version__}", devices=("cpu",), version=onnx.__version__)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        begun = time.perf_counter()
        found = cast("list[Array]", self._graph.run(list(outputs), dict(feeds)))
        self._milliseconds.append((time.perf_counter() - begun) * 1e3)
        return dict(zip(outputs, found, strict=True))

    def layer_times(self, warm_ups: int) -> list[LayerTime]:
        return [LayerTime("all of it", "Graph", float(np.median(self._milliseconds[warm_ups:])))]

    def close(self) -> None:
        pass


def _specs(values: Any) -> dict[str, TensorSpec]:
    return {
        value.name: TensorSpec(
            tuple(axis.dim_param or int(axis.dim_value) for axis in value.type.tensor_type.shape.dim),
            np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
        )
        for value in values
    }


BACKEND: Final = Backend(
    "toy", "families.toy_backend:ToyEngine", extra="dev", suffixes=(".onnx",), profiler="families.toy_backend:ToyEngine"
)
