"""Export of a checkpoint to a bundle, with engines beside it on request."""

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
