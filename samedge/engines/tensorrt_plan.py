"""A plan opened by TensorRT on one GPU: its tensors, their ranges, and one context to execute them in.

Nothing of it is opened before the file's key was compared with this TensorRT and this GPU.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, cast

from samedge.engines.build_log import BuildLog
from samedge.engines.cuda_memory import OUT_OF_MEMORY_CURE, Gpu
from samedge.engines.plan_file import inspect_plan
from samedge.engines.sidecar import COMPILED_SUFFIX, Sidecar, read_sidecar, verify_plan
from samedge.engines.tensorrt_api import Flavour, numpy_dtype
from samedge.engines.tensorrt_log import log_router
from samedge.engines.tensorrt_protocols import ConfiguredEngine, CudaEngine, Dims, ExecutionContext, RuntimeCache
from samedge.engines.whole_files import write_whole
from samedge.errors import EngineError, SamedgeError, TensorMismatchError
from samedge.types import TensorSpec

_REBUILD: Final = "Build the engine again on this machine: samedge build BUNDLE"

Range = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(slots=True)
class OpenPlan:
    """One plan in memory.

    Attributes:
        engine: What TensorRT made of it.
        context: Where it is executed.
        log: What TensorRT says.
        inputs: Input name to shape and dtype.
        outputs: Output name to shape and dtype.
        ranges: Input name to its smallest and largest shape; inputs without a free axis are not in it.
        sidecar: What is known of it; None for a plan of somebody else's.
        keeps: Objects that have to live as long as the context.
        cache: What was compiled at load, and where it is kept.
    """

    engine: CudaEngine
    context: ExecutionContext
    log: BuildLog
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    ranges: dict[str, Range]
    sidecar: Sidecar | None
    keeps: list[Any]
    cache: tuple[RuntimeCache, Path] | None = None

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the outputs' shapes for the inputs' shapes that the context has now; -1 where they are open."""
        return {name: _sizes(self.context.get_tensor_shape(name)) for name in self.outputs}

    def largest_bytes(self) -> dict[str, int]:
        """Returns the most bytes that each tensor can need; outputs are left out where TensorRT cannot tell.

        The context is left with the largest shapes.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        told = True
        for name, spec in self.inputs.items():
            fixed = tuple(int(size) for size in spec.shape) if name not in self.ranges else self.ranges[name][1]
            shapes[name] = fixed
            told = self.context.set_input_shape(name, fixed) and told
        if told and not self.context.infer_shapes():
            shapes |= {name: shape for name, shape in self.output_shapes().items() if min(shape, default=0) >= 0}
        specs = {**self.inputs, **self.outputs}
        return {name: prod(shape) * specs[name].dtype.itemsize for name, shape in shapes.items()}

    def check_ranges(self, shapes: dict[str, tuple[int, ...]], where: str) -> None:
        """Compares the inputs' shapes with what the engine was built for.

        Raises:
            TensorMismatchError: One is outside.
        """
        for name, (low, high) in self.ranges.items():
            for axis, (size, least, most) in enumerate(zip(shapes[name], low, high, strict=True)):
                if not least <= size <= most:
                    label = self.inputs[name].shape[axis]
                    raise TensorMismatchError(
                        f"{label} is {size} in input {name!r}, and this engine was built for {least} to {most}",
                        where=where,
                        cure=f"Send {least} to {most}, or build the engine with a wider profile for {label}",
                        axis=label,
                        size=size,
                        minimum=least,
                        maximum=most,
                    )

    def save_cache(self) -> None:
        """Keeps what was compiled at load for the next time; a cache that cannot be written costs time only."""
        if self.cache is not None:
            cache, path = self.cache
            with suppress(SamedgeError):
                write_whole(path, bytes(cast("Any", cache.serialize())))


def open_plan(path: Path, flavour: Flavour, gpu: Gpu) -> OpenPlan:
    """Checks a plan and opens it. Called inside the GPU's context.

    Raises:
        EngineError: It is not a plan, was made by or for something else, or TensorRT refused it.
        IntegrityError: It is not the plan that its sidecar describes.
        StorageError: It cannot be read.
    """
    file = inspect_plan(path)
    sidecar = read_sidecar(path)
    compatible = bool(sidecar and sidecar.key.settings.get("version_compatible"))
    obstacles = [] if sidecar is None else sidecar.key.obstacles(flavour, gpu)
    mismatch = file.mismatch(flavour, version_compatible=compatible)
    if mismatch is not None and not obstacles:
        obstacles = [mismatch]
    if obstacles:
        raise EngineError(
            f"this engine must not be opened here: {'; '.join(obstacles)}",
            where=path.name,
            cure=_REBUILD,
            reasons=tuple(obstacles),
        )
    if sidecar is not None:
        verify_plan(path, sidecar)
    log = BuildLog()
    with log_router(flavour.module).to(log) as logger:
        return _open(path, file.read(), flavour, gpu, logger, log, sidecar, compatible=compatible)


def _open(
    path: Path,
    plan: bytes,
    flavour: Flavour,
    gpu: Gpu,
    logger: Any,
    log: BuildLog,
    sidecar: Sidecar | None,
    *,
    compatible: bool,
) -> OpenPlan:
    runtime = flavour.module.Runtime(logger)
    if compatible and flavour.features.host_code_switch:
        cast("Any", runtime).engine_host_code_allowed = True  # such plans bring the runtime that reads them
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise _refused(path, flavour, log, "open")
    keeps: list[Any] = [runtime]
    cache: tuple[RuntimeCache, Path] | None = None
    if flavour.features.own_cuda_graphs:
        config = cast("ConfiguredEngine", engine).create_runtime_config()
        strategies: Any = flavour.module.CudaGraphStrategy  # type: ignore[attr-defined]  # asked for before
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE
        kept = path.with_name(f"{path.name}.sm{gpu.compute_capability.replace('.', '')}{COMPILED_SUFFIX}")
        compiled = config.create_runtime_cache()
        with suppress(OSError):
            compiled.deserialize(kept.read_bytes())
        config.set_runtime_cache(compiled)
        keeps.append(config)
        cache = (compiled, kept)
        context = engine.create_execution_context(config)
    else:
        context = engine.create_execution_context()
    if context is None:
        raise _refused(path, flavour, log, "start")
    inputs, outputs, ranges = _describe(engine, flavour, sidecar, path)
    return OpenPlan(engine, context, log, inputs, outputs, ranges, sidecar, keeps, cache)


def _describe(
    engine: CudaEngine, flavour: Flavour, sidecar: Sidecar | None, path: Path
) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec], dict[str, Range]]:
    inputs: dict[str, TensorSpec] = {}
    outputs: dict[str, TensorSpec] = {}
    ranges: dict[str, Range] = {}
    known = {} if sidecar is None else {**sidecar.report.inputs, **sidecar.report.outputs}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        sizes = _sizes(engine.get_tensor_shape(name))
        dtype = numpy_dtype(engine.get_tensor_dtype(name), path.name)
        spec = TensorSpec(_named(name, sizes, known.get(name)), dtype)
        if engine.get_tensor_mode(name) == flavour.module.TensorIOMode.INPUT:
            inputs[name] = spec
            if any(size < 0 for size in sizes):
                low, _best, high = engine.get_tensor_profile_shape(name, 0)
                ranges[name] = (_sizes(low), _sizes(high))
        else:
            outputs[name] = spec
    return inputs, outputs, ranges


def _named(name: str, sizes: tuple[int, ...], known: TensorSpec | None) -> tuple[int | str, ...]:
    """Free axes by the names of the build's report, or by names of their own: a plan keeps none."""
    names = known.shape if known is not None and len(known.shape) == len(sizes) else sizes
    return tuple(
        size if size >= 0 else label if isinstance(label, str) else f"{name}.{axis}"
        for axis, (size, label) in enumerate(zip(sizes, names, strict=True))
    )


def _sizes(shape: Dims) -> tuple[int, ...]:
    return tuple(int(shape[axis]) for axis in range(len(shape)))


def _refused(path: Path, flavour: Flavour, log: BuildLog, doing: str) -> EngineError:
    said = log.errors[0][:400] if log.errors else "it did not say why"
    memory = any(sign in said.lower() for sign in ("outofmemory", "out of memory", "allocate"))
    return EngineError(
        f"{flavour} cannot {doing} this engine: {said}",
        where=path.name,
        cure=OUT_OF_MEMORY_CURE if memory else _REBUILD,
        causes=tuple(log.errors),
    )
