"""Builder configuration for each generation of TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, cast

from samedge.engines.tensorrt.api import Flavour
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.engines.tensorrt.log import BuildLog
from samedge.engines.tensorrt.protocols import Builder, BuilderConfig, CapabilityConfig, CompatibleConfig
from samedge.errors import EngineError, StorageError, UsageError
from samedge.options import AxisRange
from samedge.storage.atomic import write_whole
from samedge.types import TensorSpec

Shapes: TypeAlias = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Input name to its smallest, best and largest shape."""


def profile_shapes(inputs: Mapping[str, TensorSpec], profiles: Mapping[str, AxisRange], where: str) -> Shapes:
    """Return the smallest, best and largest shape of every input with a free axis."""
    shapes: Shapes = {}
    for name, spec in inputs.items():
        free = [axis for axis in spec.shape if isinstance(axis, str)]
        for axis in free:
            if axis not in profiles:
                raise UsageError(
                    f"the free axis {axis!r} of input {name!r} has no range",
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
    """Return the network creation flags."""
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
    """Apply build options to a builder configuration.

    Args:
        flavour: The TensorRT that builds.
        config: Its configuration.
        options: Build options, already checked against the flavour's capabilities.
        workspace: Scratch space, bytes; None for TensorRT's default.
        strong: True for a strongly typed network; precision flags apply to the others.

    Raises:
        UsageError: TensorRT rejected a target.
    """
    trt, features = flavour.module, flavour.features
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # logs the list of layers
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
        levels: Any = trt.HardwareCompatibilityLevel  # type: ignore[attr-defined]  # probed earlier
        level = getattr(levels, options.hardware_compatibility.upper())
        cast("CompatibleConfig", config).hardware_compatibility_level = level
    if options.targets:
        capabilities: Any = trt.ComputeCapability  # type: ignore[attr-defined]  # probed earlier
        capable = cast("CapabilityConfig", config)
        capable.num_compute_capabilities = len(options.targets)
        for index, name in enumerate(options.targets):
            if not capable.set_compute_capability(getattr(capabilities, name.upper()), index):
                raise UsageError(f"{flavour} does not support compute capability {name}", cure="Omit this target")


def add_profile(builder: Builder, config: BuilderConfig, shapes: Shapes, graph: Path) -> None:
    """Add the engine's only profile, if a shape is free."""
    if not shapes:
        return
    profile = builder.create_optimization_profile()
    for name, (low, best, high) in shapes.items():
        profile.set_shape(name, low, best, high)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError("TensorRT rejected the optimisation profile", where=graph.name, cure="Give smaller ranges")


def load_timing_cache(config: BuilderConfig, path: Path, log: BuildLog) -> None:
    """Load the stored timing cache, or delete it and start a new one if TensorRT rejects it: it only saves time.

    What TensorRT logs of a rejected one, as errors, is taken out of the log.
    """
    try:
        kept = path.read_bytes()
    except OSError:
        kept = b""
    before = len(log.errors)
    cache = config.create_timing_cache(kept)
    if cache is None or not config.set_timing_cache(cache, False) or len(log.errors) > before:
        del log.errors[before:]
        with suppress(OSError):
            path.unlink(missing_ok=True)
        cache = config.create_timing_cache(b"")
        if cache is not None:
            config.set_timing_cache(cache, False)


def save_timing_cache(config: BuilderConfig, path: Path) -> None:
    """Save the timing cache with this build's additions. Failure to write is ignored."""
    cache = config.get_timing_cache()
    if cache is not None:
        with suppress(StorageError):
            write_whole(path, bytes(cast("Any", cache.serialize())))
