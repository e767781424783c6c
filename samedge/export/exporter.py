"""The one call behind ``samedge export``: a bundle, and engines beside it where they were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import Unpack

from samedge.export.bundle import export_bundle
from samedge.export.engines.export import export_with_engines
from samedge.options import ENGINE_FORMATS, ExportFormat, ExportKeywords, ExportOptions, with_keywords
from samedge.types import Progress

if TYPE_CHECKING:
    from samedge.export.engines.build import BuiltEngines


@with_keywords(ExportKeywords)
def export_model(
    model: str | Path,
    *,
    format: ExportFormat | None = None,
    options: ExportOptions | None = None,
    progress: Progress | None = None,
    **keywords: Unpack[ExportKeywords],
) -> Path:
    """Write a checkpoint as a bundle of ONNX graphs, prove them against the torch model, and return its path.

        samedge.export_model("sam_b.pt", precision="fp16", output="sam_b-gpu")
        samedge.export_model("sam_b.pt", format="trt", prompts="1/4/8")

    Args:
        model: Path of a checkpoint, or a known name such as "sam_b.pt", which is downloaded if it is not on disk.
        format: What to write: "onnx", the default; or "trt", "rtx" or "engine" for TensorRT engines beside the bundle
            as well, as `samedge.build_engines` builds them. Engines that failed are refused when they are loaded.
        options: A record of options, where they are kept; the defaults if it is left out.
        progress: Called as the work goes on.
        keywords: Single options, which change those of the record: the fields of `samedge.options.ExportOptions`
            (`precision`, `opset`, `calib`, `output`, `image_size`, `check`), of `SamExportOptions` (`io`, `form`,
            `for_engines`), of `YoloExportOptions` (`dynamic`, `nms`, `conf`, `iou`, `max_det`, `agnostic_nms`) and, for
            engines, of `EngineBuildOptions` (`prompts`, `points`, `targets`, ...). They are described there.

    Returns:
        The bundle's path. Its manifest has the verdict: a bundle that failed is written, and refused when it is loaded.

    Raises:
        TypeError: A keyword that is not known.
        UsageError: An option that is not known, or that means nothing here.
        MissingExtraError: torch, onnx or onnxslim is not installed.
        BackendUnavailableError: Engines were asked for, and TensorRT is not installed.
        DeviceUnavailableError: Engines were asked for that are built on a GPU, and there is none.
        CheckpointError: The checkpoint cannot be read, or is of no known architecture.
        DownloadError: A known name could not be fetched.
        ExportError: A graph could not be written, or something is in the way of the bundle.
        StorageError: The file system said no.
    """
    return export(model, (options or ExportOptions()).updated(format, **keywords), progress)[0]


def export(
    model: str | Path, options: ExportOptions, progress: Progress | None = None
) -> tuple[Path, BuiltEngines | None]:
    """Export a checkpoint, and return the bundle's path and the engines, if those were asked for.

    Args:
        model: As for `export_model`.
        options: All options.
        progress: Called as the work goes on.

    Raises:
        SamedgeError: As `export_model`.
    """
    if options.format in ENGINE_FORMATS:
        return export_with_engines(model, options, progress)
    return export_bundle(model, options, progress), None
