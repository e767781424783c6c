"""Export of a checkpoint to a bundle, with engines beside it on request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from typing_extensions import Unpack

from samedge.errors import UsageError
from samedge.export.bundle import export_bundle
from samedge.export.engines.build import BuiltEngines, build_engines
from samedge.export.engines.family import engines_of
from samedge.export.engines.target import build_options, find_target
from samedge.families import families
from samedge.options import (
    ENGINE_FORMATS,
    EngineBuildOptions,
    ExportFormat,
    ExportKeywords,
    ExportOptions,
    with_keywords,
)
from samedge.types import Progress

_GRAPHS_SHARE: Final = 0.5


@with_keywords(ExportKeywords)
def export_model(
    model: str | Path,
    *,
    format: ExportFormat | None = None,
    options: ExportOptions | None = None,
    progress: Progress | None = None,
    **keywords: Unpack[ExportKeywords],
) -> Path:
    """Write a checkpoint as a bundle of ONNX graphs, compare them with the torch model, and return the bundle's path.

        samedge.export_model("sam_b.pt", precision="fp16", output="sam_b-gpu")
        samedge.export_model("sam_b.pt", format="trt", prompts="1/4/8")

    Args:
        model: Path of a checkpoint, or a known name such as "sam_b.pt", which is downloaded if there is no such file.
        format: "onnx", the default; or "trt", "rtx" or "engine" to build TensorRT engines beside the bundle as well, as
            `samedge.build_engines` does. Engines with a failed verdict are refused when they are loaded.
        options: A record of options; the defaults if None.
        progress: Called as the work proceeds.
        keywords: Single options, which override those of the record: the fields of `samedge.options.ExportOptions`
            (`precision`, `opset`, `calib`, `output`, `image_size`, `check`), of `SamExportOptions` (`io`, `form`,
            `for_engines`, ...), of `YoloExportOptions` (`dynamic`, `nms`, `conf`, `iou`, `max_det`, `agnostic_nms`,
            ...) and, for engines, of `EngineBuildOptions` (`prompts`, `points`, `targets`, ...), where they are
            documented.

    Returns:
        The bundle's path. The verdict is in its manifest: a bundle that failed is written, and refused when it is
            loaded.

    Raises:
        TypeError: A keyword is unknown.
        UsageError: An option is invalid or does not apply.
        MissingExtraError: torch, onnx or onnxslim is not installed.
        BackendUnavailableError: Engines were requested, and TensorRT is not installed.
        DeviceUnavailableError: Engines were requested that are built on a GPU, and there is none.
        CheckpointError: The checkpoint cannot be read, or its architecture is unknown.
        DownloadError: The download failed.
        ExportError: A graph cannot be written, or the bundle's path is taken.
        StorageError: A file cannot be read or written.
    """
    return export(model, (options or ExportOptions()).updated(format, **keywords), progress)[0]


def export(
    model: str | Path, options: ExportOptions, progress: Progress | None = None
) -> tuple[Path, BuiltEngines | None]:
    """Export a checkpoint as `export_model` does, and return the bundle's path and the engines, if requested."""
    if options.format in ENGINE_FORMATS:
        return export_with_engines(model, options, progress)
    return export_bundle(model, options, progress), None


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
    # Before the export, which takes minutes.
    target = find_target(options.format, build_options(options.engines), options.engines.device)
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
