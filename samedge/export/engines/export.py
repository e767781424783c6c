"""``samedge export --format trt``: a bundle in the form that TensorRT fuses, and its engines beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from samedge.bundle.engines import no_suppression
from samedge.errors import UsageError
from samedge.export.bundle import export_bundle
from samedge.export.engines.build import BuiltEngines, build_engines
from samedge.export.engines.target import build_options, find_target
from samedge.options import EngineBuildOptions, ExportOptions
from samedge.types import Progress

_GRAPHS_SHARE: Final = 0.5


def export_with_engines(
    model: str | Path, options: ExportOptions, progress: Progress | None = None
) -> tuple[Path, BuiltEngines]:
    """Export a checkpoint as a bundle, build its engines, and return the bundle's path and the engines.

    What would stop the build is found before anything is exported.

    Args:
        model: Path of a checkpoint, or a known name.
        options: Those of a format that has engines.
        progress: Called with a sentence and the share that is done.

    Raises:
        UsageError: The options mean nothing together.
        BackendUnavailableError: TensorRT is not installed; the cure says what to install on this kind of machine.
        DeviceUnavailableError: It needs a GPU to build, and there is none.
        SamedgeError: As `samedge.export_model` and `samedge.build_engines`.
    """
    if options.sam.io != "native":
        raise UsageError(
            f"engines are built from native bundles, and {options.sam.io} was asked for",
            where="--io",
            cure="Leave --io out, or choose --format onnx",
        )
    quantised = options.precision if options.precision in ("int8", "fp8") else None
    if quantised is not None and options.calib is None:
        raise UsageError(
            f"TensorRT takes {quantised} with ranges that were measured before",
            where="--precision",
            cure="Add --calib IMAGES",
        )
    target = find_target(options.format, build_options(options.engines), options.engines.device)  # for what it refuses
    if options.yolo.nms and target.flavour.is_rtx:
        raise no_suppression("--nms")

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
        # What changed the masks is not in the bundle; its notes say so.
        precision=None if quantised is not None else options.precision,
        check=options.check,
        options=options.engines,
        progress=lambda step, share: report(step, share, _GRAPHS_SHARE),
    )
    return bundle, built
