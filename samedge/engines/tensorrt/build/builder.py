"""ONNX graph to TensorRT plan, for every generation of TensorRT and for TensorRT for RTX.

    flavour = find_flavour("tensorrt-rtx")
    plan, report = build_plan(flavour, Path("encoder.onnx"), BuildOptions(targets=("8.6", "12.0")))

Calls are chosen by the capabilities of the installed copy, never by its version. Prefer
`samedge.engines.tensorrt.build.guarded`, which survives a build that kills its process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from samedge.engines.tensorrt.api import Flavour, numpy_dtype
from samedge.engines.tensorrt.build.config import (
    add_profile,
    configure,
    creation_flags,
    load_timing_cache,
    profile_shapes,
    save_timing_cache,
)
from samedge.engines.tensorrt.build.failures import build_failure, computes_zeros, known_zeros, refuse_unsupported
from samedge.engines.tensorrt.build.memory import DeviceMemory, check_memory
from samedge.engines.tensorrt.build.options import BuildOptions, BuildReport
from samedge.engines.tensorrt.build.progress import PhaseTree, attach_monitor
from samedge.engines.tensorrt.log import BuildLog, log_router
from samedge.engines.tensorrt.protocols import MonitoredConfig, NamedAxes, NetworkTensor
from samedge.errors import EngineError
from samedge.types import Progress, TensorSpec


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
) -> tuple[memoryview, BuildReport]:
    """Build a plan and its report.

    Args:
        flavour: The TensorRT that builds.
        graph: The ONNX file; external data is found beside it.
        options: Build options.
        axes: Name of an input or output to its axes, sizes or names. TensorRT keeps the axis names of inputs from 8.6
            on, and never those of outputs.
        device: Memory of the GPU that runs the build, from which the workspace is taken; None without a GPU.
        timing_cache: File that keeps kernel timings between builds; created if missing.
        progress: Called during the build, if TensorRT reports progress.
        cancelled: Polled during the build, if TensorRT can be interrupted; True ends it.

    Returns:
        The serialised plan, in TensorRT's own memory, and the report.

    Raises:
        UsageError: The options are invalid for this flavour or graph.
        EngineError: There is not enough memory, or TensorRT rejected the graph.
        StorageError: The graph cannot be read.
    """
    refuse_unsupported(flavour, options)
    workspace = _workspace(options, device)
    if options.check_memory:
        check_memory(graph, device=device, workspace=workspace)
    cache = (
        timing_cache if flavour.features.timing_cache and not flavour.is_rtx else None
    )  # RTX has the calls but no timings
    log = BuildLog()
    with log_router(flavour.module).to(log) as logger:
        tree = PhaseTree(progress or (lambda _step, _share: None), cancelled)
        return _build(flavour, graph, options, logger, log, tree, axes=axes, workspace=workspace, cache=cache)


def _build(
    flavour: Flavour,
    graph: Path,
    options: BuildOptions,
    logger: Any,
    log: BuildLog,
    tree: PhaseTree,
    *,
    axes: Mapping[str, Sequence[int | str]] | None,
    workspace: int | None,
    cache: Path | None,
) -> tuple[memoryview, BuildReport]:
    trt, features = flavour.module, flavour.features
    started = time.monotonic()
    builder = trt.Builder(logger)
    strong = features.strong_typing and (options.typing != "weak" or features.always_strong)
    network = builder.create_network(creation_flags(flavour, strong))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)) or parser.num_errors:
        causes = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise build_failure(flavour, graph, "parse", [*causes, *log.errors])
    if not network.num_outputs:
        raise build_failure(flavour, graph, "parse", ["the file contains no graph"])
    inputs = {tensor.name: _spec(tensor, axes, graph) for tensor in map(network.get_input, range(network.num_inputs))}
    outputs = {
        tensor.name: _spec(tensor, axes, graph) for tensor in map(network.get_output, range(network.num_outputs))
    }
    free = any(isinstance(axis, str) for spec in inputs.values() for axis in spec.shape)
    if computes_zeros(flavour.name, options.precision, options.targets, free_axes=free):
        raise known_zeros(flavour, graph, named=True)
    config = builder.create_builder_config()
    shapes = profile_shapes(inputs, options.profiles, graph.name)
    configure(flavour, config, options, workspace=workspace, strong=strong)
    add_profile(builder, config, shapes, graph)
    if cache is not None:
        load_timing_cache(config, cache, log)
    if features.progress_monitor:
        cast("MonitoredConfig", config).progress_monitor = attach_monitor(trt, tree)
    if log.errors:  # a setter rejected its value
        raise build_failure(flavour, graph, "configure", log.errors)
    memory = builder.build_serialized_network(network, config)
    if memory is None and tree.cancelled():
        raise EngineError("the build was cancelled", where=graph.name, cure="Start it again to build", cancelled=True)
    # With a plan, errors are kernels that were tried and did not work; the report has them, and the probes judge.
    if memory is None:
        raise build_failure(flavour, graph, "build", log.errors)
    plan = memoryview(cast("Any", memory)).cast("B")  # not bytes: that would copy the plan
    tree.complete()
    if cache is not None:
        save_timing_cache(config, cache)
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


def _workspace(options: BuildOptions, device: DeviceMemory | None) -> int | None:
    if options.workspace_bytes is not None or device is None:
        return options.workspace_bytes
    return int(device.free * options.workspace_share)


def _spec(tensor: NetworkTensor, axes: Mapping[str, Sequence[int | str]] | None, graph: Path) -> TensorSpec:
    """Return shape and dtype; free axes keep their ONNX name or get a unique one."""
    given = (axes or {}).get(tensor.name, ())
    shape: list[int | str] = []
    for index in range(len(tensor.shape)):
        size = tensor.shape[index]
        name = cast("NamedAxes", tensor).get_dimension_name(index) if hasattr(tensor, "get_dimension_name") else None
        if not name and index < len(given) and isinstance(given[index], str):
            name = str(given[index])
        shape.append(int(size) if size >= 0 else name or f"{tensor.name}.{index}")
    return TensorSpec(tuple(shape), numpy_dtype(tensor.dtype, graph.name))
