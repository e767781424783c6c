"""``samedge export --format trt``: a bundle in the form that TensorRT fuses, and its engines beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from samedge.errors import UsageError
from samedge.export.bundle import export_bundle
from samedge.export.engines.build import BuiltEngines, build_engines
from samedge.export.engines.family import engines_of
from samedge.export.engines.target import build_options, find_target
from samedge.families import families
from samedge.options import EngineBuildOptions, ExportOptions
from samedge.types import Progress

_GRAPHS_SHARE: Final = 0.5


def export_with_engines(
    model: str | Path, options: ExportOptions, progress: Progress | None = None
) -> tuple[Path, BuiltEngines]:
    """Export a checkpoint as a bundle, build its engines, and return the bundle's path and the engines.

    Obstacles to the build are reported before the export.

    Args:
        model: Path of a checkpoint, or a known name.
        options: With a format that has engines.
        progress: Called as the work proceeds.

    Raises:
        UsageError: The options contradict each other.
        BackendUnavailableError: TensorRT is not installed; the cure says what to install on this machine.
        DeviceUnavailableError: TensorRT needs a GPU to build, and there is none.
        SamedgeError: As `samedge.export_model` and `samedge.build_engines`.
    """
    if options.sam.io != "native":
        raise UsageError(
            f"engines are built from native bundles, not {options.sam.io}",
            where="--io",
            cure="Omit --io, or choose --format onnx",
        )
    quantised = options.precision if options.precision in ("int8", "fp8") else None
    if quantised is not None and options.calib is None:
        raise UsageError(
            f"TensorRT needs {quantised} with calibrated ranges", where="--precision", cure="Add --calib IMAGES"
        )
    target = find_target(
        options.format, build_options(options.engines), options.engines.device
    )  # raises before the export
    for family in families():
        engines_of(family).refuse(options, target)

    def report(step: str, share: float, start: float) -> None:
        if progress is not None and (step, start) != ("Done", 0.0):
            progress(step, start + _GRAPHS_SHARE * share)

    graphs = replace(
        options,
        format="onnx",
        precision=quantised,
        sam=replace(options.sam, for_engines=True),
        engines=EngineBuildOptions(),
    )
    bundle = export_bundle(model, graphs, lambda step, share: report(step, share, 0.0))
    built = build_engines(
        bundle,
        flavour=options.format,
        # Not the requested precision: the bundle may have fallen back to another.
        precision=None if quantised is not None else options.precision,
        check=options.check,
        options=options.engines,
        progress=lambda step, share: report(step, share, _GRAPHS_SHARE),
    )
    return bundle, built
