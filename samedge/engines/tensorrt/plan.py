"""A plan opened by TensorRT on one GPU: its tensors, their ranges, and its execution contexts.

Nothing is opened before the file's key is checked against this TensorRT and this GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, cast

from samedge.engines.cuda.memory import OUT_OF_MEMORY_CURE, Gpu
from samedge.engines.tensorrt.api import Flavour, numpy_dtype
from samedge.engines.tensorrt.log import BuildLog, log_router
from samedge.engines.tensorrt.plan_file import inspect_plan
from samedge.engines.tensorrt.protocols import (
    ConfiguredEngine,
    CudaEngine,
    Dims,
    ExecutionContext,
    ManagedContext,
    RuntimeCache,
    SizedEngine,
)
from samedge.engines.tensorrt.store.sidecar import COMPILED_SUFFIX, Sidecar, read_sidecar, verify_plan
from samedge.errors import EngineError, SamedgeError, TensorMismatchError
from samedge.storage.atomic import write_whole
from samedge.types import TensorSpec

_REBUILD: Final = "Build the engine again on this machine: samedge build BUNDLE"

Range = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(slots=True)
class OpenPlan:
    """One plan in memory.

    Attributes:
        engine: TensorRT's engine.
        context: First execution context; more can be created.
        managed: True if contexts share memory supplied by the caller and take turns in it.
        flavour: The TensorRT that opened it.
        where: Its name in error messages.
        log: TensorRT's messages.
        inputs: Input name to shape and dtype.
        outputs: Output name to shape and dtype.
        profiles: For each optimisation profile, input name to its smallest and largest shape, for inputs with a free
            axis.
        sidecar: Its sidecar; None for a plan of another tool.
        keeps: Objects that must live as long as the context.
        cache: Cache of kernels compiled at load, and its file.
    """

    engine: CudaEngine
    context: ExecutionContext
    managed: bool
    flavour: Flavour
    where: str
    log: BuildLog
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    profiles: tuple[dict[str, Range], ...]
    sidecar: Sidecar | None
    keeps: list[Any]
    cache: tuple[RuntimeCache, Path] | None = None

    def new_context(self) -> ExecutionContext:
        """Create another context; if contexts are managed, it needs memory from the caller."""
        context = _create_context(self.engine, self.flavour) if self.managed else self.engine.create_execution_context()
        if context is None:
            raise _plan_failure(self.where, self.flavour, self.log, "start")
        return context

    def scratch_bytes(self) -> int:
        """Return the memory that a context needs, bytes."""
        if hasattr(self.engine, "device_memory_size_v2"):
            return int(cast("SizedEngine", self.engine).device_memory_size_v2)
        return int(cast("Any", self.engine).device_memory_size)

    def give_memory(self, context: ExecutionContext, address: int) -> None:
        """Give a context `scratch_bytes` of memory; no other context may use it at the same time."""
        if hasattr(context, "set_device_memory"):
            cast("ManagedContext", context).set_device_memory(address, self.scratch_bytes())
        else:
            cast("Any", context).device_memory = address

    def require(self, worked: bool, what: str) -> None:
        """Raise an error with TensorRT's log if one of its calls failed."""
        if worked:
            return
        message = self.log.errors[-1][:400] if self.log.errors else "TensorRT gave no reason"
        raise EngineError(
            f"the engine {what}: {message}",
            where=self.where,
            cure="Build the engine again, or report this with the plan's sidecar",
            message=message,
        )

    def nbytes(self, name: str, shape: tuple[int, ...]) -> int:
        """Return the size of a tensor of the given shape, bytes."""
        spec = self.inputs[name] if name in self.inputs else self.outputs[name]
        return prod(shape) * spec.dtype.itemsize

    def output_shapes(self, context: ExecutionContext) -> dict[str, tuple[int, ...]]:
        """Return the output shapes for a context's current input shapes; -1 for undetermined sizes."""
        return {name: _sizes(context.get_tensor_shape(name)) for name in self.outputs}

    def largest_bytes(self) -> dict[str, int]:
        """Return the most bytes that each tensor can need, without outputs that TensorRT cannot bound.

        The context is left with the largest shapes. Empty if there are several profiles.
        """
        if len(self.profiles) > 1:
            return {}
        ranges = self.profiles[0]
        shapes: dict[str, tuple[int, ...]] = {}
        accepted = True
        for name, spec in self.inputs.items():
            fixed = tuple(int(size) for size in spec.shape) if name not in ranges else ranges[name][1]
            shapes[name] = fixed
            accepted = self.context.set_input_shape(name, fixed) and accepted
        if accepted and not self.context.infer_shapes():
            outputs = self.output_shapes(self.context)
            shapes |= {name: shape for name, shape in outputs.items() if min(shape, default=0) >= 0}
        return {name: self.nbytes(name, shape) for name, shape in shapes.items()}

    @property
    def axis_limits(self) -> dict[str, tuple[int, int]]:
        """Name of each free axis to its smallest and largest size, over all profiles."""
        limits: dict[str, tuple[int, int]] = {}
        for ranges in self.profiles:
            for name, (low, high) in ranges.items():
                for label, least, most in zip(self.inputs[name].shape, low, high, strict=True):
                    if isinstance(label, str):
                        known = limits.get(label, (least, most))
                        limits[label] = (min(known[0], least), max(known[1], most))
        return limits

    def profile_for(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Return the first profile that fits the input shapes."""
        problem: TensorMismatchError | None = None
        for index, ranges in enumerate(self.profiles):
            problem = self._outside(ranges, shapes)
            if problem is None:
                return index
        if problem is None:
            raise EngineError("this engine has no optimisation profile", where=self.where, cure=_REBUILD)
        raise problem

    def _outside(self, ranges: dict[str, Range], shapes: Mapping[str, tuple[int, ...]]) -> TensorMismatchError | None:
        for name, (low, high) in ranges.items():
            for axis, (size, least, most) in enumerate(zip(shapes[name], low, high, strict=True)):
                if not least <= size <= most:
                    label = self.inputs[name].shape[axis]
                    return TensorMismatchError(
                        f"{label} is {size} in input {name!r}, but this engine was built for {least} to {most}",
                        where=self.where,
                        cure=f"Send {least} to {most}, or build the engine with a wider profile for {label}",
                        axis=label,
                        size=size,
                        minimum=least,
                        maximum=most,
                    )
        return None

    def save_cache(self) -> None:
        """Save the kernels compiled at load. Failure is ignored: an unwritable cache only costs time."""
        if self.cache is not None:
            cache, path = self.cache
            with suppress(SamedgeError):
                write_whole(path, bytes(cast("Any", cache.serialize())))


def open_plan(path: Path, flavour: Flavour, gpu: Gpu) -> OpenPlan:
    """Check a plan and open it. Call inside the GPU's context."""
    file = inspect_plan(path)
    sidecar = read_sidecar(path)
    compatible = bool(sidecar and sidecar.key.settings.get("version_compatible"))
    obstacles = [] if sidecar is None else sidecar.key.obstacles(flavour, gpu)
    mismatch = file.mismatch(flavour, version_compatible=compatible, keyed=sidecar is not None)
    if mismatch is not None and not obstacles:
        obstacles = [mismatch]
    if obstacles:
        raise EngineError(
            f"this engine cannot be opened safely here: {'; '.join(obstacles)}",
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
        cast("Any", runtime).engine_host_code_allowed = True  # such plans embed the runtime that reads them
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise _plan_failure(path.name, flavour, log, "open")
    inputs, outputs, profiles = _describe(engine, flavour, sidecar, path)
    keeps: list[Any] = [runtime]
    cache: tuple[RuntimeCache, Path] | None = None
    managed = False
    context: ExecutionContext | None
    if flavour.features.own_cuda_graphs:
        config = cast("ConfiguredEngine", engine).create_runtime_config()
        strategies: Any = flavour.module.CudaGraphStrategy  # type: ignore[attr-defined]  # probed earlier
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE
        kept = path.with_name(f"{path.name}.{gpu.target}{COMPILED_SUFFIX}")
        compiled = config.create_runtime_cache()
        with suppress(OSError):
            if not compiled.deserialize(kept.read_bytes()):
                compiled = config.create_runtime_cache()  # from another driver, or damaged: compile anew
        config.set_runtime_cache(compiled)
        keeps += [config, compiled]
        cache = (compiled, kept)
        context = engine.create_execution_context(config)
    else:
        # With fixed shapes one context is enough, and best manages its own memory.
        managed = flavour.features.managed_contexts and any(profiles)
        context = _create_context(engine, flavour) if managed else engine.create_execution_context()
    if context is None:
        raise _plan_failure(path.name, flavour, log, "start")
    return OpenPlan(engine, context, managed, flavour, path.name, log, inputs, outputs, profiles, sidecar, keeps, cache)


def _create_context(engine: CudaEngine, flavour: Flavour) -> ExecutionContext | None:
    """Create a context without memory of its own."""
    strategies: Any = flavour.module.ExecutionContextAllocationStrategy  # type: ignore[attr-defined]  # probed earlier
    return engine.create_execution_context(strategies.USER_MANAGED)


def _describe(
    engine: CudaEngine, flavour: Flavour, sidecar: Sidecar | None, path: Path
) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec], tuple[dict[str, Range], ...]]:
    inputs: dict[str, TensorSpec] = {}
    outputs: dict[str, TensorSpec] = {}
    profiles: tuple[dict[str, Range], ...] = tuple({} for _ in range(max(1, engine.num_optimization_profiles)))
    known = {} if sidecar is None else {**sidecar.report.inputs, **sidecar.report.outputs}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        sizes = _sizes(engine.get_tensor_shape(name))
        dtype = numpy_dtype(engine.get_tensor_dtype(name), path.name)
        spec = TensorSpec(_named(name, sizes, known.get(name)), dtype)
        if engine.get_tensor_location(name) != flavour.module.TensorLocation.DEVICE:
            raise EngineError(
                f"{name!r} of this engine is a shape tensor, which must be on the host",
                where=path.name,
                cure="Build it from a graph whose inputs are all data, such as those written by samedge export",
            )
        if engine.get_tensor_mode(name) == flavour.module.TensorIOMode.INPUT:
            inputs[name] = spec
            if any(size < 0 for size in sizes):
                for profile, ranges in enumerate(profiles):
                    low, _best, high = engine.get_tensor_profile_shape(name, profile)
                    ranges[name] = (_sizes(low), _sizes(high))
        else:
            outputs[name] = spec
    return inputs, outputs, profiles


def _named(name: str, sizes: tuple[int, ...], known: TensorSpec | None) -> tuple[int | str, ...]:
    """Name free axes as in the build report, or uniquely: a plan keeps no names."""
    names = known.shape if known is not None and len(known.shape) == len(sizes) else sizes
    return tuple(
        size if size >= 0 else label if isinstance(label, str) else f"{name}.{axis}"
        for axis, (size, label) in enumerate(zip(sizes, names, strict=True))
    )


def _sizes(shape: Dims) -> tuple[int, ...]:
    return tuple(int(shape[axis]) for axis in range(len(shape)))


def _plan_failure(where: str, flavour: Flavour, log: BuildLog, doing: str) -> EngineError:
    message = log.errors[0][:400] if log.errors else "no reason given"
    memory = any(sign in message.lower() for sign in ("outofmemory", "out of memory", "allocate"))
    return EngineError(
        f"{flavour} cannot {doing} this engine: {message}",
        where=where,
        cure=OUT_OF_MEMORY_CURE if memory else _REBUILD,
        causes=tuple(log.errors),
    )
