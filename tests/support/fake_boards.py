"""A board for tests: a real bundle as plans of a fake TensorRT on a fake GPU; onnxruntime has the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from samedge.bundle.manifest import SPLIT_ROLES, GraphRole, Manifest, read_manifest
from samedge.engines.protocol import Engine, EngineOptions
from samedge.engines.registry import open_engine
from samedge.engines.tensorrt.build.builder import build_plan
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.engines.tensorrt.engine import TensorRtEngine
from samedge.options import AxisRange
from samedge.runtime.decoder.decoders import Decoder, SplitDecoder, WholeDecoder
from samedge.runtime.predictor import Predictor
from samedge.testing.cuda import FakeCuda
from samedge.types import Array
from support.fake_tensorrt import FakeTensorRt, write_graph

PROFILES = {"batch": AxisRange(1, 1, 1), "prompts": AxisRange(1, 4, 8), "points": AxisRange(1, 2, 16),
            "contexts": AxisRange(1, 1, 8)}  # fmt: skip


class SharedGpu(FakeCuda):
    """One GPU for several engines; closing an engine's view of it, as a real provider does, ends nothing."""

    def close(self) -> None:
        """Nothing: `check` finds what is left."""


class Board:
    """A GPU and the engines of a bundle.

    Args:
        bundle: Folder of a small bundle, native scheme.
        folder: Where plans are written.
        generation: Of TensorRT.
        cuda: The GPU; a new one if left out.
        split: Use the three graphs of the decoder.
    """

    def __init__(
        self, bundle: Path, folder: Path, generation: str = "10.3", *, cuda: FakeCuda | None = None, split: bool = True
    ) -> None:
        self.cuda = cuda or SharedGpu()
        self.bundle, self.folder, self.generation, self.split = bundle, folder, generation, split
        self.manifest: Manifest = read_manifest(bundle / "manifest.json")
        self.engines: dict[GraphRole, Engine] = {}
        self.fakes: dict[GraphRole, FakeTensorRt] = {}
        self._host: list[Engine] = []

    def engine(self, role: GraphRole) -> Engine:
        """Opens a graph."""
        record = self.manifest.graph(role)
        host = open_engine(self.bundle / record.graph.file, backend="onnxruntime", device="cpu", threads=1)
        self._host.append(host)

        def program(feeds: dict[str, Array]) -> Mapping[str, Array]:
            return host.run(feeds)

        trt = self.fakes[role] = FakeTensorRt(self.generation, cuda=self.cuda, program=program)
        ports: list[dict[str, Any]] = [
            {name: (port.dtype, list(port.shape)) for name, port in ports.items()}
            for ports in (record.inputs, record.outputs)
        ]
        graph = write_graph(self.folder / f"{role}.json", *ports)
        axes = {name: tuple(shape) for name, (_, shape) in ports[1].items()}
        free = {axis for port in ports for _, shape in port.values() for axis in shape if isinstance(axis, str)}
        options = BuildOptions(profiles={name: PROFILES[name] for name in sorted(free)})
        plan, report = build_plan(trt.flavour, graph, options, axes=axes)
        names = {name: spec.shape for name, spec in report.inputs.items()}
        assert all(names.values()), json.dumps(str(names))
        path = self.folder / f"{role}.engine"
        path.write_bytes(plan)
        raw = TensorRtEngine(path, EngineOptions(), flavour=trt.flavour, memory=self.cuda)
        self.engines[role] = Engine(raw, backend="tensorrt", name=path.name)
        return self.engines[role]

    def predictor(self) -> Predictor:
        """Opens the bundle."""
        size = self.manifest.input.image_size

        def whole() -> WholeDecoder:
            return WholeDecoder(self.engine("decoder"), "native", size)

        decoder: Decoder
        if self.split:
            context, prompts, masks = (self.engine(role) for role in SPLIT_ROLES)
            decoder = SplitDecoder(context, prompts, masks, whole)
        else:
            decoder = whole()
        return Predictor(self.manifest, self.engine("encoder"), decoder)

    def copies(self) -> tuple[int, int]:
        """How many times was copied from and to the host so far."""
        return self.cuda.calls.count("copy_in"), self.cuda.calls.count("copy_out")

    def close(self) -> None:
        """Closes what computes."""
        for engine in self._host:
            engine.close()


def picture(seed: int) -> Any:
    """A picture of noise, BGR uint8 ``(60, 80, 3)``."""
    return np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
