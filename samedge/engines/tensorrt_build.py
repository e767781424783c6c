"""ONNX graph to TensorRT plan, for every generation of TensorRT and for TensorRT for RTX.

    flavour = find_flavour("tensorrt-rtx")
    plan, report = build_plan(flavour, Path("encoder.onnx"), BuildOptions(targets=("8.6", "12.0")))

What to call is decided by what the installed copy has, never by its version. Call it through
`samedge.engines.guarded_build`, which survives what a build can do to its process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from samedge.engines.build_failures import build_failure, fatal_errors, refuse_unsupported
from samedge.engines.build_log import BuildLog, attach_logger
from samedge.engines.build_memory import DeviceMemory, check_memory
from samedge.engines.build_options import AxisRange, BuildOptions, BuildReport
from samedge.engines.build_progress import PhaseTree, Progress, attach_monitor
from samedge.engines.tensorrt_api import Flavour, numpy_dtype
from samedge.engines.tensorrt_protocols import (
    Builder,
    BuilderConfig,
    CapabilityConfig,
    CompatibleConfig,
    MonitoredConfig,
    NamedAxes,
    NetworkTensor,
)
from samedge.engines.whole_files import write_whole
from samedge.errors import EngineError, UsageError
from samedge.types import TensorSpec

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


def build_plan(
    flavour: Flavour,
    graph: Path,
    options: BuildOptions,
    *,
    axes: Mapping[str, Sequence[int | str]] | None = None,
    device: DeviceMemory | None = None,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[bytes, BuildReport]:
    """Builds a plan and tells about it.

    Args:
        flavour: The TensorRT that builds.
        graph: The ONNX file; external data is found beside it.
        options: How.
        axes: Name of an input or output to its axes, sizes or names. TensorRT keeps the names of inputs' axes from 8.6
            on, and never those of outputs.
        device: Memory of the GPU that the build runs on, from which the workspace is taken; None without a GPU.
        timing_cache: File that keeps the times of kernels from one build to the next; made if it is not there.
        progress: Called as the build goes on, where TensorRT can tell.
        cancelled: Asked now and then, where TensorRT can be asked to stop; True ends the build.

    Returns:
        The plan as TensorRT serialised it, and the report.

    Raises:
        UsageError: The options mean nothing for this flavour or this graph.
        EngineError: There is not enough memory, or TensorRT refused the graph.
        StorageError: The graph cannot be read.
    """
    trt, features = flavour.module, flavour.features
    refuse_unsupported(flavour, options)
    workspace = _workspace(options, device)
    if options.check_memory:
        check_memory(graph, device=device, workspace=workspace)
    started = time.monotonic()
    log = BuildLog()
    logger = attach_logger(trt, log)
    builder = trt.Builder(logger)
    strong = features.strong_typing and (options.typing != "weak" or features.always_strong)
    network = builder.create_network(_creation_flags(flavour, strong))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)) or parser.num_errors:
        causes = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise build_failure(flavour, graph, "parse", [*causes, *log.errors])
    if not network.num_outputs:
        raise build_failure(flavour, graph, "parse", ["there is no graph in the file"])
    inputs = {tensor.name: _spec(tensor, axes, graph) for tensor in map(network.get_input, range(network.num_inputs))}
    outputs = {
        tensor.name: _spec(tensor, axes, graph) for tensor in map(network.get_output, range(network.num_outputs))
    }
    _refuse_known_bad(flavour, graph, options, inputs)
    config = builder.create_builder_config()
    shapes = profile_shapes(inputs, options.profiles, graph.name)
    _configure(flavour, config, options, workspace=workspace, strong=strong)
    _add_profile(builder, config, shapes, graph)
    cache = timing_cache if features.timing_cache and not flavour.is_rtx else None  # RTX has the calls and no times
    if cache is not None:
        _load_timing_cache(config, cache)
    report = progress or (lambda _step, _share: None)
    if features.progress_monitor:
        monitor = attach_monitor(trt, PhaseTree(report, cancelled))
        cast("MonitoredConfig", config).progress_monitor = monitor
    if log.errors:  # a setter did not take its value
        raise build_failure(flavour, graph, "configure", log.errors)
    memory = builder.build_serialized_network(network, config)
    if memory is None and cancelled():
        raise EngineError("the build was cancelled", where=graph.name)
    if memory is None or fatal_errors(log.errors):
        raise build_failure(flavour, graph, "build", log.errors)
    plan = bytes(cast("Any", memory))
    report("Built", 1.0)
    if cache is not None:
        _save_timing_cache(config, cache)
    return plan, BuildReport(
        flavour=flavour.name,
        version=flavour.version,
        inputs=inputs,
        outputs=outputs,
        profiles=shapes,
        layers=log.layers,
        fused_attentions=log.fused_attentions,
        activation_bytes=log.activation_bytes,
        weight_bytes=log.weight_bytes,
        plan_bytes=len(plan),
        strongly_typed=strong,
        targets=options.targets,
        seconds=time.monotonic() - started,
        warnings=(*log.warnings, *log.errors),
    )


def profile_shapes(inputs: Mapping[str, TensorSpec], profiles: Mapping[str, AxisRange], where: str) -> Shapes:
    """Returns the smallest, best and largest shape of every input that has a free axis.

    Raises:
        UsageError: A free axis has no sizes.
    """
    shapes: Shapes = {}
    for name, spec in inputs.items():
        free = [axis for axis in spec.shape if isinstance(axis, str)]
        for axis in free:
            if axis not in profiles:
                raise UsageError(
                    f"the axis {axis!r} of input {name!r} is free, and its sizes are not given",
                    where=where,
                    cure=f"Give minimum, optimum and maximum for it, such as profiles={{{axis!r}: AxisRange(1, 1, 4)}}",
                    axis=axis,
                )
        if free:
            ranges = [AxisRange(axis, axis, axis) if isinstance(axis, int) else profiles[axis] for axis in spec.shape]
            shapes[name] = (
                tuple(sizes.minimum for sizes in ranges),
                tuple(sizes.optimum for sizes in ranges),
                tuple(sizes.maximum for sizes in ranges),
            )
    return shapes


def _workspace(options: BuildOptions, device: DeviceMemory | None) -> int | None:
    if options.workspace_bytes is not None or device is None:
        return options.workspace_bytes
    return int(device.free * options.workspace_share)


def _creation_flags(flavour: Flavour, strong: bool) -> int:
    flags = flavour.module.NetworkDefinitionCreationFlag
    bits = 0
    if flavour.features.explicit_batch:  # required by 8.6, ignored by 10, gone in 11
        bits |= 1 << int(flags.EXPLICIT_BATCH)
    if strong:
        bits |= 1 << int(flags.STRONGLY_TYPED)
    return bits


def _configure(
    flavour: Flavour, config: BuilderConfig, options: BuildOptions, *, workspace: int | None, strong: bool
) -> None:
    trt, features = flavour.module, flavour.features
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the list of layers is logged with it
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if options.optimisation_level is not None and features.optimisation_level:
        config.builder_optimization_level = options.optimisation_level
    if not strong and features.fp16_flag and options.precision in ("fp16", "int8"):
        config.set_flag(trt.BuilderFlag.FP16)
    if not strong and features.fp16_flag and options.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility != "none":
        levels: Any = trt.HardwareCompatibilityLevel  # type: ignore[attr-defined]  # asked for before
        level = getattr(levels, options.hardware_compatibility.upper())
        cast("CompatibleConfig", config).hardware_compatibility_level = level
    if options.targets:
        capabilities: Any = trt.ComputeCapability  # type: ignore[attr-defined]  # asked for before
        capable = cast("CapabilityConfig", config)
        capable.num_compute_capabilities = len(options.targets)
        for index, name in enumerate(options.targets):
            if not capable.set_compute_capability(getattr(capabilities, name.upper()), index):
                raise UsageError(f"{flavour} does not take the compute capability {name}")


def _add_profile(builder: Builder, config: BuilderConfig, shapes: Shapes, graph: Path) -> None:
    if not shapes:
        return
    profile = builder.create_optimization_profile()
    for name, (low, best, high) in shapes.items():
        profile.set_shape(name, low, best, high)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError("TensorRT refused the optimisation profile", where=graph.name, cure="Give smaller ranges")


def _spec(tensor: NetworkTensor, axes: Mapping[str, Sequence[int | str]] | None, graph: Path) -> TensorSpec:
    """Shape and dtype, free axes by the name that ONNX gave them, or by one of their own."""
    given = (axes or {}).get(tensor.name, ())
    shape: list[int | str] = []
    for index in range(len(tensor.shape)):
        size = tensor.shape[index]
        name = cast("NamedAxes", tensor).get_dimension_name(index) if hasattr(tensor, "get_dimension_name") else None
        if not name and index < len(given) and isinstance(given[index], str):
            name = str(given[index])
        shape.append(int(size) if size >= 0 else name or f"{tensor.name}.{index}")
    return TensorSpec(tuple(shape), numpy_dtype(tensor.dtype, graph.name))


def _refuse_known_bad(flavour: Flavour, graph: Path, options: BuildOptions, inputs: Mapping[str, TensorSpec]) -> None:
    """Matrix products in fp32 with free axes give zeros on Turing, without a word (reported for TensorRT for RTX)."""
    free = any(isinstance(axis, str) for spec in inputs.values() for axis in spec.shape)
    if flavour.is_rtx and free and options.precision == "fp32" and "sm75" in options.targets:
        raise UsageError(
            f"{flavour} is known to compute zeros in fp32 with free axes on compute capability 7.5",
            where=graph.name,
            cure="Export with precision fp16, or leave the target 7.5 out",
        )


def _load_timing_cache(config: BuilderConfig, path: Path) -> None:
    """A cache that cannot be read is started anew: it saves time and changes nothing else."""
    try:
        kept = path.read_bytes()
    except OSError:
        kept = b""
    cache = config.create_timing_cache(kept) or config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, False)


def _save_timing_cache(config: BuilderConfig, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        write_whole(path, bytes(cast("Any", cache.serialize())))
