"""From a YOLOv8 or FastSAM to a bundle."""

from __future__ import annotations

from pathlib import Path

import msgspec

from samedge.bundle.manifest import InputRecord, Manifest, ModelRecord
from samedge.bundle.yolo_record import YoloRecord
from samedge.errors import UsageError
from samedge.export.describe import count_image_gflops, model_record, provenance
from samedge.export.yolo.export import class_names, input_size, suppression, with_head, write_yolo
from samedge.models.yolo.load import LoadedYolo
from samedge.options import ExportOptions, YoloExportOptions, refuse_foreign
from samedge.types import Progress

_ZERO, _WHITE = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)


class YoloExporter:
    """The `samedge.export.family.FamilyExporter` of YOLOv8 and FastSAM."""

    def describe(self, loaded: LoadedYolo, image_size: int | tuple[int, int] | None = None) -> ModelRecord:
        """See `FamilyExporter`: the size is what operations are counted at."""
        size = image_size or loaded.image_size
        height, width = (size, size) if isinstance(size, int) else size
        loaded = with_head(loaded, YoloExportOptions())
        return model_record(loaded, count_image_gflops(loaded.model, (height, width)), 0.0)

    def write(self, loaded: LoadedYolo, stage: Path, stem: str, options: ExportOptions, report: Progress) -> Manifest:
        """See `write_yolo_bundle`."""
        return write_yolo_bundle(loaded, stage, stem, options, report)


def write_yolo_bundle(loaded: LoadedYolo, stage: Path, stem: str, options: ExportOptions, report: Progress) -> Manifest:
    """Write the graph of a YOLO into a folder, prove it, and return the manifest of its bundle.

    Args:
        loaded: The model.
        stage: The folder.
        stem: Beginning of file names.
        options: What was asked for.
        report: Called as the work goes on.

    Raises:
        UsageError: int8 without images, or options that mean nothing for a YOLO.
        SamedgeError: As `samedge.export_model`.
    """
    refuse_foreign("a YOLO", {"--io": options.sam.io != "native", "--form": options.sam.form not in (None, "chunked")})
    precision = options.graph_precision
    if precision not in ("fp32", "int8"):
        raise UsageError(
            f"the graph of a YOLO is exported in fp32 or int8, and {precision} was asked for", where="--precision",
            cure="Leave it out: float16 is written into the graph when engines are built (samedge build)",
        )  # fmt: skip
    if precision == "int8" and options.calib is None:
        raise UsageError(
            "int8 convolutions need images that their ranges are measured on", where="--precision",
            cure="Add --calib with a folder of images like those that the model will see",
        )  # fmt: skip
    loaded = with_head(loaded, options.yolo)
    height, width = input_size(options.image_size, loaded.image_size, max(loaded.model.config.strides))
    written = write_yolo(loaded, options, stage, stem, report=report)
    return Manifest(
        **provenance(),
        model=model_record(loaded, count_image_gflops(loaded.model, (height, width)), 0.0),
        input=InputRecord(image_size=max(height, width), pixel_mean=_ZERO, pixel_std=_WHITE, mask_threshold=0.0),
        io="native",
        graphs=(written.graph,),
        parity=written.parity,
        notes=written.notes,
        yolo=YoloRecord(
            task="segment" if loaded.model.config.segments else "detect",
            names=tuple(class_names(loaded).values()),
            strides=loaded.model.config.strides,
            image_size=(height, width),
            dynamic=options.yolo.dynamic,
            nms=suppression(options.yolo),
            one_to_one=loaded.model.config.one_to_one or msgspec.UNSET,
        ),
    )
