"""From a checkpoint to a proved bundle: options are checked, the model's family writes, and the bundle appears whole.

Imports no torch before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from samedge.bundle.manifest import MANIFEST_NAME, Manifest, encode_manifest
from samedge.bundle.staging import check_target, staged_bundle
from samedge.errors import UsageError, missing_extra
from samedge.export.family import exporter_of
from samedge.families import families
from samedge.options import FP8_OPSET, ExportOptions, changed_fields
from samedge.storage.files import storage_errors
from samedge.types import IOScheme, Progress

OPSETS: Final = range(17, 21)
"""16 has no LayerNormalization; above 20 the accelerators of common runtimes lack kernels."""


def export_bundle(model: str | Path, options: ExportOptions, progress: Progress | None = None) -> Path:
    """Write a checkpoint as a bundle of ONNX graphs, and return its path.

    Args:
        model: Path of a checkpoint, a known name, or "seeded:NAME".
        options: Those of the format "onnx".
        progress: Called as the work goes on.

    Raises:
        MissingExtraError: torch, onnx or onnxslim is not installed.
        SamedgeError: As `samedge.export_model`.
    """
    _check_options(options)
    report = progress or (lambda _step, _share: None)
    stem = Path(model).stem.replace(":", "-")
    target = Path(options.output) if options.output is not None else Path(default_name(stem, options.sam.io))
    check_target(target)
    write = _writer(model, options, report)
    with staged_bundle(target) as stage:
        manifest = write(stage, stem, options, report)
        path = stage / MANIFEST_NAME
        with storage_errors(path):
            path.write_bytes(encode_manifest(manifest))
    report("Done", 1.0)
    return target


def _writer(
    model: str | Path, options: ExportOptions, report: Progress
) -> Callable[[Path, str, ExportOptions, Progress], Manifest]:
    """Load a checkpoint, and return its family's writer: it fills a folder with graphs and returns their manifest."""
    report("Reading the checkpoint", 0.0)
    try:
        from samedge.models.checkpoints.read import ReadOptions
        from samedge.models.load import load_any

        # Before a checkpoint is fetched: whichever family it is of, its exporter must be there.
        exporters = {family.name: exporter_of(family) for family in families()}
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "export,cpu", "Exporting a checkpoint") from error
    loaded = load_any(
        model,
        image_size=options.image_size,
        progress=partial(_report_download, report, str(model)),
        reading=ReadOptions(options.sam.weights_key, options.sam.lora_scale, options.sam.base),
    )
    return partial(exporters[loaded.family].write, loaded)


def _report_download(report: Progress, name: str, done: int, total: int | None) -> None:
    size = "" if total is None else f" of {total / 1e6:.0f}"
    report(f"Downloading {name}: {done / 1e6:.0f}{size} MB", 0.0)


def default_name(stem: str, io: IOScheme) -> str:
    """Return the folder name that an export gets if none is given."""
    return f"{stem}-samedge" if io == "native" else f"{stem}-samedge-{io}"


def _check_options(options: ExportOptions) -> None:
    """Refuse options that mean nothing together, whatever the model."""
    precision, opset = options.graph_precision, options.graph_opset
    quantised = precision in ("int8", "fp8")
    if quantised and options.sam.io == "samexporter":
        raise UsageError(
            f"{precision} is not written in the samexporter scheme", where="--io", cure="Choose native or meta"
        )
    if options.calib is not None and not quantised:
        raise UsageError("images to calibrate with are for int8", where="--calib", cure="Add --precision int8")
    for name in changed_fields(options.engines):
        raise UsageError(
            "this is for engines", where=f"--{name.replace('_', '-')}",
            cure="Add --format trt or rtx, or leave it out",
        )  # fmt: skip
    if precision == "fp8" and options.calib is None:
        raise UsageError(
            "fp8 wants images to measure ranges on", where="--calib", cure="Give a folder of images like yours"
        )
    if precision == "fp8" and opset < FP8_OPSET:
        raise UsageError(f"opset {opset} has no fp8", where="--opset", cure=f"Choose {FP8_OPSET} or {FP8_OPSET + 1}")
    if opset not in OPSETS:
        raise UsageError(
            f"opset {opset} is not supported", where="--opset", cure=f"Choose {OPSETS.start} to {OPSETS.stop - 1}"
        )
