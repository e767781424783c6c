"""From a checkpoint of YOLOv8 or FastSAM to a proved graph: one ONNX file, or a bundle with it.

The file runs here, in Ultralytics' own runtime and wherever its exports run: tensors and metadata have their names.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import onnx
from typing_extensions import Unpack

from samedge.bundle.manifest import GraphRecord, ParityRecord
from samedge.bundle.yolo_record import SuppressionRecord
from samedge.engines.registry import open_engine
from samedge.errors import UsageError
from samedge.export.graphs.onnx_file import remove_graph, save_graph
from samedge.export.graphs.trace import trace
from samedge.export.precision.ladder import WrittenGraph
from samedge.export.yolo.graphs import anchors_of, plan_yolo
from samedge.export.yolo.int8 import int8_yolo
from samedge.export.yolo.parity import MAX_SUPPRESSION_ERROR, check_yolo, parity_json, suppression_error
from samedge.export.yolo.suppression import add_best_boxes, add_suppression
from samedge.models.yolo.load import LoadedYolo, load_yolo
from samedge.models.yolo.yolo import ONE, YoloConfig
from samedge.options import (
    ExportOptions,
    GraphKeywords,
    YoloExportOptions,
    changed_fields,
    refuse_foreign,
    with_keywords,
)
from samedge.runtime.image.sources import find_images
from samedge.runtime.yolo.graph import ONE_TO_ONE, PARITY, yolo_metadata
from samedge.storage.atomic import staged_file
from samedge.storage.files import storage_errors
from samedge.types import Progress
from samedge.version import __version__

YOLO_OPSETS: Final = range(12, 21)


@dataclass(frozen=True, slots=True)
class WrittenYolo:
    """A graph in a folder.

    Attributes:
        graph: Its record.
        parity: The verdict.
        notes: What was tried and not used, and what int8 has won.
    """

    graph: GraphRecord
    parity: ParityRecord
    notes: tuple[str, ...] = ()


@with_keywords(GraphKeywords)
def export_yolo(
    model: str | Path,
    output: str | Path | None = None,
    *,
    batch: int | None = None,
    options: ExportOptions | None = None,
    **keywords: Unpack[GraphKeywords],
) -> Path:
    """Write a YOLOv8 or FastSAM as an ONNX file, prove it against the torch model, and return its path.

    Args:
        model: Path of a checkpoint, a known name, or "seeded:yolov8n-seg" and the like.
        output: The file; by default the checkpoint's name with the ending ``.onnx`` in the working folder.
        batch: The one number of images that the graph takes; None leaves it free. Ultralytics' runtime takes a graph
            whose batch is free for one whose sizes are free too.
        options: A record of options, where they are kept; the defaults if it is left out.
        keywords: Single options, which change those of the record: `image_size`, `opset` (12 to 20), `check`, and the
            fields of `samedge.options.YoloExportOptions` (`dynamic`, `nms`, `conf`, `iou`, `max_det`, `agnostic_nms`,
            `end_to_end`).

    Raises:
        TypeError: A keyword that is not known.
        UsageError: An option that means nothing.
        CheckpointError: The checkpoint cannot be read, or is of another architecture.
        ExportError: The graph could not be written.
        StorageError: The file system said no.
    """
    asked = (options or ExportOptions()).updated(**keywords)
    foreign = (*changed_fields(asked.sam), *changed_fields(asked.engines))
    given = {"precision": asked.precision is not None, "calib": asked.calib is not None}
    refuse_foreign("an ONNX file", {**given, **dict.fromkeys(foreign, True)})
    if asked.graph_opset not in YOLO_OPSETS:
        raise UsageError(
            f"opset {asked.opset} is not supported", cure=f"Choose {YOLO_OPSETS.start} to {YOLO_OPSETS.stop - 1}"
        )
    if batch is not None and batch < 1:
        raise UsageError(f"batch is {batch}", cure="Give 1 or more, or None for any number of images")
    loaded = load_yolo(model)
    input_size(asked.image_size, loaded.image_size, max(loaded.model.config.strides))
    place = output if output is not None else asked.output
    target = Path(place) if place is not None else Path(f"{Path(model).stem.replace(':', '-')}.onnx")
    with staged_file(target) as stage, tempfile.TemporaryDirectory(prefix="samedge-yolo-") as folder:
        written = write_yolo(loaded, asked, Path(folder), "graph", batch=batch, alone=True)
        with storage_errors(target):
            shutil.copyfile(Path(folder) / written.graph.graph.file, stage)
    return target


def input_size(asked: int | tuple[int, int] | None, trained: int, stride: int) -> tuple[int, int]:
    """Return (height, width) of the input, px.

    Args:
        asked: Its side, or (height, width), px; None for what the model was trained at.
        trained: What the model was trained at, px.
        stride: Its coarsest stride, px.

    Raises:
        UsageError: They are no multiples of the stride.
    """
    asked = trained if asked is None else asked
    height, width = (asked, asked) if isinstance(asked, int) else asked
    if min(height, width) < stride or height % stride or width % stride:
        raise UsageError(
            f"an image size of {height} x {width} px is not possible for this model",
            cure=f"Choose multiples of {stride}",
        )
    return height, width


def with_head(loaded: LoadedYolo, options: YoloExportOptions) -> LoadedYolo:
    """Return a model with the one head that is used.

    Raises:
        UsageError: `end_to_end` is asked of a model that has no head for it.
    """
    heads = loaded.model.config.heads
    if options.end_to_end and ONE not in heads:
        raise UsageError(
            f"{loaded.name} has no head that gives one box an object", where="--end-to-end", cure="Leave it out"
        )
    head = ONE if options.end_to_end else heads[0]
    return loaded if heads == (head,) else replace(loaded, model=loaded.model.with_head(head))


def suppression(options: YoloExportOptions) -> SuppressionRecord | None:
    """Return how the graph suppresses, or None where it does not."""
    if not options.nms:
        return None
    return SuppressionRecord(options.conf, options.iou, options.max_det, options.agnostic_nms)


def write_yolo(
    loaded: LoadedYolo,
    options: ExportOptions,
    folder: Path,
    stem: str,
    *,
    batch: int | None = None,
    alone: bool = False,
    report: Progress = lambda _step, _share: None,
) -> WrittenYolo:
    """Write the graph of a YOLO into a folder, and prove it.

    Args:
        loaded: The model.
        options: What was asked for.
        folder: Where to.
        stem: Beginning of the file name.
        batch: The one number of images that the graph takes; None leaves it free.
        alone: The graph is used without a bundle, by other runtimes too: end to end, it chooses the best boxes itself,
            as Ultralytics' exports do.
        report: Called with a sentence and the share of the whole that is done.

    Raises:
        UsageError: Suppression is asked of a model that needs none.
    """
    loaded = with_head(loaded, options.yolo)
    config = loaded.model.config
    size = input_size(options.image_size, loaded.image_size, max(config.strides))
    dynamic, opset, nms = options.yolo.dynamic, options.graph_opset, suppression(options.yolo)
    if config.one_to_one:
        if nms is not None:
            raise UsageError(
                f"{loaded.name} gives one box an object, and nothing is left to suppress",
                where="--nms",
                cure="Leave it out",
            )
        nms = SuppressionRecord(conf=0.0, iou=1.0, max_det=options.yolo.max_det) if alone else None
    images = None if options.calib is None else find_images(Path(options.calib))
    plan = plan_yolo(loaded.model, size, dynamic=dynamic, batch=batch)
    report("Writing the graph", 0.1)
    graph = save_graph(trace(plan, opset), plan, folder, stem, precision="fp32", opset=opset)
    parity = ParityRecord(verdict="unchecked")
    notes: tuple[str, ...] = ()
    if options.check:
        report("Comparing with the checkpoint", 0.3)
        with open_engine(folder / graph.graph.file, backend="onnxruntime", device="cpu") as engine:
            parity = check_yolo(loaded.model, engine, size, rect=dynamic, batch=batch or 1)
    metadata = partial(_metadata, loaded, options.yolo, size, batch, chosen=alone and config.one_to_one)
    if images is not None:
        chosen = int8_yolo(
            WrittenGraph(graph, plan, folder, stem), images, size, config, metadata(parity),
            lambda step, share: report(step, 0.4 + 0.5 * share), check=options.check, dynamic=dynamic,
        )  # fmt: skip
        graph, notes = chosen.graph, chosen.notes
        if chosen.graph.precision == "int8":
            parity = _int8_parity(parity, chosen.parity)
        if loaded.seeded:
            notes = (*notes, "the weights are random: whether int8 finds the same objects says nothing of trained ones")
    model = onnx.load(str(folder / graph.graph.file))
    variant = graph.variant
    if nms is not None:
        anchors = None if dynamic else anchors_of(config, size)
        (add_best_boxes if config.one_to_one else add_suppression)(model, config, nms, anchors=anchors)
        variant = f"{variant}, {'end to end' if config.one_to_one else 'nms'}"
        if options.check:
            report("Comparing suppression with the host's", 0.9)
            path = folder / graph.graph.file
            error = _suppression_error(model, path, config, nms, size, rect=dynamic, batch=batch or 1)
            parity = _with_suppression(parity, error)
    onnx.helper.set_model_props(model, metadata(parity))
    name = f"{stem}.int8" if graph.precision == "int8" else stem
    remove_graph(graph, folder)
    final = save_graph(model, plan, folder, name, precision=graph.precision, opset=opset, variant=variant)
    return WrittenYolo(final, parity, notes)


def _int8_parity(fp32: ParityRecord, int8: ParityRecord | None) -> ParityRecord:
    """Return the verdict of int8; that of the float32 graph that it was judged by has to have passed as well."""
    if int8 is None:
        return ParityRecord(verdict="unchecked")
    return fp32 if fp32.verdict == "failed" else int8


def _suppression_error(
    model: onnx.ModelProto,
    raw_path: Path,
    config: YoloConfig,
    nms: SuppressionRecord,
    size: tuple[int, int],
    *,
    rect: bool,
    batch: int,
) -> float:
    """Return how far what a graph suppresses is from what the host suppresses after the graph without it."""
    path = raw_path.with_name("suppressed.onnx")
    with storage_errors(path):
        onnx.save(model, str(path))
    try:
        with (
            open_engine(raw_path, backend="onnxruntime", device="cpu") as raw,
            open_engine(path, backend="onnxruntime", device="cpu") as suppressed,
        ):
            return suppression_error(raw, suppressed, config, nms, size, rect=rect, batch=batch)
    finally:
        path.unlink(missing_ok=True)


def _with_suppression(parity: ParityRecord, error: float) -> ParityRecord:
    verdict = parity.verdict if error <= MAX_SUPPRESSION_ERROR else "failed"
    thresholds = {**parity.thresholds, "suppression_error_max": MAX_SUPPRESSION_ERROR}
    return msgspec.structs.replace(parity, verdict=verdict, thresholds=thresholds)


def _metadata(
    loaded: LoadedYolo,
    options: YoloExportOptions,
    size: tuple[int, int],
    batch: int | None,
    parity: ParityRecord,
    *,
    chosen: bool,
) -> dict[str, str]:
    config = loaded.model.config
    return yolo_metadata(
        class_names(loaded),
        size,
        "segment" if config.segments else "detect",
        stride=str(max(config.strides)),
        description=f"{loaded.name}, exported by samedge",
        author="samedge",
        version=__version__,
        license=loaded.licence,
        args=repr({"dynamic": options.dynamic, "nms": options.nms, "batch": batch or 1}),
        batch=str(batch or 1),
        checkpoint=loaded.checkpoint,
        checkpoint_sha256=loaded.sha256,
        seeded=str(loaded.seeded),
        **({"end2end": "True"} if chosen else {ONE_TO_ONE: str(config.one_to_one)}),
        **{PARITY: parity_json(parity)},
    )


def class_names(loaded: LoadedYolo) -> dict[int, str]:
    """Return the names of the classes by number; numbers where the checkpoint does not tell them."""
    return {number: loaded.names.get(number, str(number)) for number in range(loaded.model.config.classes)}
