"""Export of YOLOs and FastSAM to bundles."""

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
    """The `samedge.export.family.FamilyExporter` of YOLO and FastSAM."""

    def describe(self, loaded: LoadedYolo, image_size: int | tuple[int, int] | None = None) -> ModelRecord:
        """Describe the model; operations are counted at the size."""
        size = image_size or loaded.image_size
        height, width = (size, size) if isinstance(size, int) else size
        loaded = with_head(loaded, YoloExportOptions())
        return model_record(loaded, count_image_gflops(loaded.model, (height, width)), 0.0)

    def write(self, loaded: LoadedYolo, stage: Path, stem: str, options: ExportOptions, report: Progress) -> Manifest:
        """Write the graph in fp32, or in int8 if it preserves the objects."""
        refuse_foreign(
            "a YOLO", {"--io": options.sam.io != "native", "--form": options.sam.form not in (None, "chunked")}
        )
        precision = options.graph_precision
        if precision not in ("fp32", "int8"):
            raise UsageError(
                f"the graph of a YOLO is exported in fp32 or int8, not {precision}", where="--precision",
                cure="Omit it: samedge build writes float16 into the graph when it builds engines",
            )  # fmt: skip
        if precision == "int8" and options.calib is None:
            raise UsageError(
                "int8 needs calibration images", where="--precision",
                cure="Add --calib with a folder of images like yours",
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
