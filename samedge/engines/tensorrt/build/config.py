"""A builder's configuration: what each generation of TensorRT must be told, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, cast

from samedge.engines.tensorrt.api import Flavour
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.engines.tensorrt.protocols import Builder, BuilderConfig, CapabilityConfig, CompatibleConfig
from samedge.errors import EngineError, StorageError, UsageError
from samedge.options import AxisRange
from samedge.storage.atomic import write_whole
from samedge.types import TensorSpec

Shapes: TypeAlias = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Input name to its smallest, best and largest shape."""


def profile_shapes(inputs: Mapping[str, TensorSpec], profiles: Mapping[str, AxisRange], where: str) -> Shapes:
    """Return the smallest, best and largest shape of every input that has a free axis.

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


def creation_flags(flavour: Flavour, strong: bool) -> int:
    """Return the flags that a network is created with."""
    flags = flavour.module.NetworkDefinitionCreationFlag
    bits = 0
    if flavour.features.explicit_batch:  # required by 8.6, ignored by 10, gone in 11
        bits |= 1 << int(flags.EXPLICIT_BATCH)
    if strong:
        bits |= 1 << int(flags.STRONGLY_TYPED)
    return bits


def configure(
    flavour: Flavour, config: BuilderConfig, options: BuildOptions, *, workspace: int | None, strong: bool
) -> None:
    """Tell a configuration what the options say.

    Args:
        flavour: The TensorRT that builds.
        config: Its configuration.
        options: How, already checked against what the flavour has.
        workspace: Scratch space, bytes; None for TensorRT's default.
        strong: Whether the network is strongly typed; precision flags are for the others.

    Raises:
        UsageError: A target was not taken.
    """
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


def add_profile(builder: Builder, config: BuilderConfig, shapes: Shapes, graph: Path) -> None:
    """Add the one profile of an engine, if a shape is free.

    Raises:
        EngineError: TensorRT refused it.
    """
    if not shapes:
        return
    profile = builder.create_optimization_profile()
    for name, (low, best, high) in shapes.items():
        profile.set_shape(name, low, best, high)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError("TensorRT refused the optimisation profile", where=graph.name, cure="Give smaller ranges")


def load_timing_cache(config: BuilderConfig, path: Path) -> None:
    """Give a configuration the kept cache. One that cannot be read is started anew: it saves time, and that is all."""
    try:
        kept = path.read_bytes()
    except OSError:
        kept = b""
    cache = config.create_timing_cache(kept) or config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, False)


def save_timing_cache(config: BuilderConfig, path: Path) -> None:
    """Write the cache with what this build added. One that cannot be written is no reason to lose the engine."""
    cache = config.get_timing_cache()
    if cache is not None:
        with suppress(StorageError):
            write_whole(path, bytes(cast("Any", cache.serialize())))
