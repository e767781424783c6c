"""A board made of Python: a TensorRT that "builds" graphs into notes, and engines that run them with onnxruntime.

What is built says on which rung its graph was written; what is opened runs the bundle's own graph, spoiled as a test
asks for that rung. Builds run in the test's process, so that what they would cost can be counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from samedge.api import load
from samedge.api import load as yolo_loading
from samedge.bundle import engine_file
from samedge.bundle import engines as bundle_engines
from samedge.bundle.archive import Bundle, open_bundle
from samedge.bundle.engines import engine_roles
from samedge.bundle.manifest import GraphRole
from samedge.engines import registry
from samedge.engines.cuda.memory import Gpu, no_driver
from samedge.engines.protocol import Engine
from samedge.engines.tensorrt.api import Flavour, FlavourName
from samedge.engines.tensorrt.build.options import BuildOptions, BuildReport
from samedge.engines.tensorrt.store import builds as stored_builds
from samedge.engines.tensorrt.store import explain
from samedge.engines.tensorrt.store.key import EngineKey
from samedge.export.engines import build as bundle_build
from samedge.export.engines import rungs
from samedge.export.engines import target as engine_target
from samedge.parity import verify, yolo_verify
from samedge.testing.cuda import FakeCuda
from samedge.testing.engine import fake_engine
from samedge.types import Array, TensorSpec
from support.build_doubles import any_report
from support.fake_tensorrt import FakeTensorRt

ORIN = Gpu(0, "Orin (nvgpu)", "8.7", 8, 1 << 33, integrated=True)
RTX3060 = Gpu(0, "NVIDIA GeForce RTX 3060", "8.6", 28, 12 << 30, integrated=False)
SPOILED = ("image_embeddings", "low_res_masks", "output0")
RUNGS = ("fp16", "fp16-norms", "fp16-attention", "fp32")

Spoil = Callable[[Array], Array]


def nothing(array: Array) -> Array:
    """Leaves an output as it is."""
    return array


def shifted(array: Array) -> Array:
    """Masks that lie beside their objects, or an embedding of another place."""
    return np.roll(array, 16, axis=-1)


def overflown(array: Array) -> Array:
    """What float16 gives where a number is too large for it."""
    return np.full_like(array, np.nan)


class Board:
    """One device with its TensorRT.

    Args:
        patch: Puts it in the place of the real one.
        generation: Of TensorRT, see `fake_tensorrt.VERSIONS`.
        gpu: The GPU; None for none.

    Attributes:
        wrong: (role, rung) to what happens to the outputs of such an engine.
        builds: (role, rung) of every build, in order.
        options: Of every build.
        opened: (role, rung) of every engine that was opened.
        fails: (role, rung) to the error of its build.
    """

    def __init__(self, patch: pytest.MonkeyPatch, generation: str = "10.3", gpu: Gpu | None = ORIN) -> None:
        self.tensorrt = FakeTensorRt(generation)
        self.gpu = gpu
        self.wrong: dict[tuple[GraphRole, str], Spoil] = {}
        self.fails: dict[tuple[GraphRole, str], Exception] = {}
        self.builds: list[tuple[GraphRole, str]] = []
        self.options: list[BuildOptions] = []
        self.opened: list[tuple[GraphRole, str]] = []
        self._bundles: dict[str, Bundle] = {}
        for module in (engine_target, stored_builds, bundle_engines, explain):
            patch.setattr(module, "find_flavour", self.find_flavour)
        for module in (engine_target, bundle_engines, explain):
            patch.setattr(module, "find_gpu", self.find_gpu)
        patch.setattr(stored_builds, "open_cuda", self.open_cuda)
        patch.setattr(stored_builds, "build_in_child", self.build)
        patch.setattr(bundle_engines, "require_backend", registry.find_backend)
        patch.setattr(rungs, "_half", {"HALF_RUNGS": RUNGS, "to_half": mark_rung}.__getitem__)
        patch.setattr(bundle_build, "open_engine", self.open_plan)
        patch.setattr(engine_file, "open_engine", self.open_plan)
        real = registry.open_engine

        def opened(path: Path, **how: Any) -> Engine:
            return self.open_plan(path) if path.suffix == ".engine" else real(path, **how)

        for module in (load, yolo_loading, verify, yolo_verify):
            patch.setattr(module, "open_engine", opened)

    def serve(self, path: Path) -> Path:
        """Tells the board where the graphs of a bundle are that its engines run, and returns the bundle's path."""
        bundle = open_bundle(path, force=True)
        for role in engine_roles(bundle.manifest):
            self._bundles[bundle.graph_path(role).name] = bundle
        return path

    def find_flavour(self, name: FlavourName) -> Flavour:
        if name != self.tensorrt.name:
            from samedge.engines.tensorrt.api import MODULES, install_cure
            from samedge.errors import BackendUnavailableError

            raise BackendUnavailableError(f"{MODULES[name]} is not installed", cure=install_cure(name))
        return self.tensorrt.flavour

    def find_gpu(self, device: str | None = None) -> Gpu:
        if self.gpu is None:
            raise no_driver("none here")
        return self.gpu

    def open_cuda(self, device: str | None = None) -> FakeCuda:
        return FakeCuda(gpu=self.find_gpu(device))

    def build(
        self, flavour: str, graph: Path, output: Path, options: BuildOptions, *, progress: Any = None, **others: Any
    ) -> BuildReport:
        """In place of the guarded child."""
        rung = onnx.load(str(graph), load_external_data=False).producer_name
        rung = rung if rung in RUNGS else "fp32"
        manifest = self._bundles[graph.name].manifest
        role = next(each for each in engine_roles(manifest) if manifest.graph(each).graph.file == graph.name)
        self.builds.append((role, rung))
        self.options.append(options)
        if (role, rung) in self.fails:
            raise self.fails[role, rung]
        if progress is not None:
            progress("Thinking", 0.5)
        sizes = {name: str(sizes) for name, sizes in options.profiles.items()}
        plan = self.tensorrt.plan({"role": role, "rung": rung, "graph": graph.name, "profiles": sizes})
        output.write_bytes(plan)
        record = manifest.graph(role)
        ports = {
            name: TensorSpec(port.shape, np.dtype(port.dtype))
            for name, port in {**record.inputs, **record.outputs}.items()
        }
        return any_report(
            plan,
            flavour=flavour,
            version=self.tensorrt.version,
            inputs={name: ports[name] for name in record.inputs},
            outputs={name: ports[name] for name in record.outputs},
            targets=options.targets,
        )

    def open_plan(self, path: Path, *, backend: str = "", device: str | None = None) -> Engine:
        """In place of TensorRT's runtime."""
        told = json.loads(path.read_bytes()[28:])
        role, rung = told["role"], told["rung"]
        self.opened.append((role, rung))
        spoil = self.wrong.get((role, rung), nothing)
        real = registry.open_engine(
            self._bundles[told["graph"]].graph_path(role), backend="onnxruntime", device="cpu", threads=1
        )

        def run(feeds: dict[str, Array]) -> Mapping[str, Array]:
            outputs = real.run(feeds)
            return {name: spoil(array) if name in SPOILED else array for name, array in outputs.items()}

        return fake_engine(real.inputs, real.outputs, run, device="cuda:0", name=path.name)


def mark_rung(model: onnx.ModelProto, rung: str) -> None:
    """In place of writing float16: the graph says its rung, and is another one for that."""
    model.producer_name = rung


def stale(key: EngineKey) -> EngineKey:
    """Returns the key as a build by an older TensorRT on a larger board would have had it."""
    from dataclasses import replace

    return replace(key, version="8.6.1.6", multiprocessors=16, gpu="AGX Orin (nvgpu)")
