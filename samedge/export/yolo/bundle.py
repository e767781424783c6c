"""From a YOLOv8 or FastSAM to a bundle: what `samedge.export.exporter` calls when a checkpoint turns out to be one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

from samedge.bundle.manifest import MANIFEST_NAME, SCHEMA_VERSION, InputRecord, Manifest, encode_manifest
from samedge.bundle.staging import staged_bundle
from samedge.bundle.yolo_record import YoloRecord
from samedge.errors import UsageError, storage_errors
from samedge.export.describe import describe_yolo_model
from samedge.export.yolo.export import class_names, write_yolo
from samedge.export.yolo.options import YoloOptions
from samedge.models.yolo.load import LoadedYolo
from samedge.models.yolo.yolo import STRIDES
from samedge.runtime.image.sources import find_images
from samedge.types import Precision

_ZERO, _WHITE = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)


def export_yolo_bundle(
    loaded: LoadedYolo,
    target: Path,
    stem: str,
    options: YoloOptions,
    *,
    precision: Precision,
    opset: int,
    calib: str | Path | None,
    check: bool,
    versions: Mapping[str, str],
    report: Callable[[str, float], None],
) -> None:
    """Write a bundle.

    Args:
        loaded: The model.
        target: The bundle's folder or file.
        stem: Beginning of file names.
        options: What was asked for.
        precision: "fp32" or "int8".
        opset: ONNX opset.
        calib: Images to measure the ranges of int8 on.
        check: Compare with the torch model.
        versions: Of what made it, for the manifest.
        report: Called with a sentence and the share of the whole that is done.

    Raises:
        UsageError: int8 without images, or options that mean nothing.
        SamedgeError: As `samedge.export_model`.
    """
    if precision not in ("fp32", "int8"):
        raise UsageError(
            f"the graph of a YOLO is exported in fp32 or int8, and {precision} was asked for", where="--precision",
            cure="Leave it out: float16 is written into the graph when engines are built (samedge build)",
        )  # fmt: skip
    if precision == "int8" and calib is None:
        raise UsageError(
            "int8 convolutions need images that their ranges are measured on", where="--precision",
            cure="Add --calib with a folder of pictures like those that the model will see",
        )  # fmt: skip
    height, width = options.size(loaded.image_size)
    images = None if calib is None else find_images(Path(calib))
    with staged_bundle(target) as stage:
        written = write_yolo(loaded, options, stage, stem, opset=opset, check=check, calib=images, report=report)
        manifest = Manifest(
            schema=SCHEMA_VERSION,
            model=describe_yolo_model(loaded, (height, width)),
            input=InputRecord(image_size=max(height, width), pixel_mean=_ZERO, pixel_std=_WHITE, mask_threshold=0.0),
            io="native",
            graphs=(written.graph,),
            parity=written.parity,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=dict(versions),
            notes=written.notes,
            yolo=YoloRecord(
                task="segment" if loaded.model.config.segments else "detect",
                names=tuple(class_names(loaded).values()),
                strides=STRIDES,
                image_size=(height, width),
                dynamic=options.dynamic,
                nms=options.nms,
            ),
        )
        path = stage / MANIFEST_NAME
        with storage_errors(path):
            path.write_bytes(encode_manifest(manifest))
