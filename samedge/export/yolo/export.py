"""From a checkpoint of YOLOv8 or FastSAM to a proved graph: one ONNX file, or a bundle with it.

The file runs here, in Ultralytics' own runtime and wherever its exports run: tensors and metadata have their names.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import onnx

from samedge.bundle.manifest import GraphRecord, ParityRecord
from samedge.engines.registry import open_engine
from samedge.errors import UsageError, storage_errors
from samedge.export.graphs.onnx_file import remove_graph, save_graph
from samedge.export.graphs.trace import trace
from samedge.export.yolo.graphs import anchors_of, plan_yolo
from samedge.export.yolo.int8 import int8_yolo
from samedge.export.yolo.options import YoloOptions, suppression
from samedge.export.yolo.parity import MAX_SUPPRESSION_ERROR, check_yolo, parity_json, suppression_error
from samedge.export.yolo.suppression import add_suppression
from samedge.models.yolo.load import LoadedYolo, load_yolo
from samedge.runtime.yolo.graph import PARITY, yolo_metadata
from samedge.storage.atomic import staged_file
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


def export_yolo(
    model: str | Path,
    output: str | Path | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    dynamic: bool = True,
    opset: int = 17,
    check: bool = True,
    batch: int | None = None,
    nms: bool = False,
    conf: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
    agnostic_nms: bool = False,
) -> Path:
    """Write a YOLOv8 or FastSAM as an ONNX file, prove it against the torch model, and return its path.

    Args:
        model: Path of a checkpoint, a known name, or "seeded:yolov8n-seg" and the like.
        output: The file; by default the checkpoint's name with the ending ``.onnx`` in the working folder.
        image_size: Side of the input, or (height, width), px, multiples of 32; what the model was trained at if None.
        dynamic: Leave height and width free, so that the host can cut the padding down.
        opset: ONNX opset, 12 to 20.
        check: Compare the graph with the torch model on the probe images and write the verdict into the file.
        batch: The one number of images that the graph takes; None leaves it free. Ultralytics' runtime takes a graph
            whose batch is free for one whose sizes are free too.
        nms: Suppress boxes that overlap in the graph.
        conf: With `nms`: boxes score more.
        iou: With `nms`: of two boxes of one class that overlap by more, the one that scores less is dropped.
        max_det: With `nms`: rows that the graph gives for each image.
        agnostic_nms: With `nms`: boxes of different classes suppress each other too.

    Raises:
        UsageError: An option that means nothing.
        CheckpointError: The checkpoint cannot be read, or is of another architecture.
        ExportError: The graph could not be written.
        StorageError: The file system said no.
    """
    if opset not in YOLO_OPSETS:
        raise UsageError(
            f"opset {opset} is not supported", cure=f"Choose {YOLO_OPSETS.start} to {YOLO_OPSETS.stop - 1}"
        )
    record = suppression(nms=nms, conf=conf, iou=iou, max_det=max_det, agnostic=agnostic_nms)
    options = YoloOptions(image_size, dynamic, batch, record)
    loaded = load_yolo(model)
    options.size(loaded.image_size)
    target = Path(output) if output is not None else Path(f"{Path(model).stem.replace(':', '-')}.onnx")
    with staged_file(target) as stage, tempfile.TemporaryDirectory(prefix="samedge-yolo-") as folder:
        written = write_yolo(loaded, options, Path(folder), "graph", opset=opset, check=check)
        with storage_errors(target):
            shutil.copyfile(Path(folder) / written.graph.graph.file, stage)
    return target


def write_yolo(
    loaded: LoadedYolo,
    options: YoloOptions,
    folder: Path,
    stem: str,
    *,
    opset: int,
    check: bool,
    calib: list[Path] | None = None,
    report: Callable[[str, float], None] = lambda _step, _share: None,
) -> WrittenYolo:
    """Write the graph of a YOLO into a folder, and prove it.

    Args:
        loaded: The model.
        options: What was asked for.
        folder: Where to.
        stem: Beginning of the file name.
        opset: ONNX opset.
        check: Compare with the torch model.
        calib: Pictures to measure the ranges of int8 on; None for float32.
        report: Called with a sentence and the share of the whole that is done.
    """
    config, size = loaded.model.config, options.size(loaded.image_size)
    plan = plan_yolo(loaded.model, size, dynamic=options.dynamic, batch=options.batch)
    report("Writing the graph", 0.1)
    graph = save_graph(trace(plan, opset), plan, folder, stem, precision="fp32", opset=opset)
    parity = ParityRecord(verdict="unchecked")
    notes: tuple[str, ...] = ()
    if check:
        report("Comparing with the checkpoint", 0.3)
        with open_engine(folder / graph.graph.file, backend="onnxruntime", device="cpu") as engine:
            parity = check_yolo(loaded.model, engine, size, rect=options.dynamic, batch=options.batch or 1)
    if calib is not None:
        chosen = int8_yolo(
            graph, plan, folder, stem, calib, size, _metadata(loaded, options, size, parity),
            lambda step, share: report(step, 0.4 + 0.5 * share), check=check, dynamic=options.dynamic,
        )  # fmt: skip
        graph, notes = chosen.graph, chosen.notes
        if chosen.graph.precision == "int8":
            parity = _int8_parity(parity, chosen.parity)
        if loaded.seeded:
            notes = (*notes, "the weights are random: whether int8 finds the same objects says nothing of trained ones")
    model = onnx.load(str(folder / graph.graph.file))
    variant = graph.variant
    if options.nms is not None:
        anchors = None if options.dynamic else anchors_of(size)
        add_suppression(model, config, options.nms, anchors=anchors)
        variant = f"{variant}, nms"
        if check:
            report("Comparing suppression with the host's", 0.9)
            parity = _with_suppression(model, graph, parity, loaded, options, folder)
    onnx.helper.set_model_props(model, _metadata(loaded, options, size, parity))
    name = f"{stem}.int8" if graph.precision == "int8" else stem
    remove_graph(graph, folder)
    final = save_graph(model, plan, folder, name, precision=graph.precision, opset=opset, variant=variant)
    return WrittenYolo(final, parity, notes)


def _int8_parity(fp32: ParityRecord, int8: ParityRecord | None) -> ParityRecord:
    """Return the verdict of int8; that of the float32 graph that it was judged by has to have passed as well."""
    if int8 is None:
        return ParityRecord(verdict="unchecked")
    return fp32 if fp32.verdict == "failed" else int8


def _with_suppression(
    model: onnx.ModelProto,
    graph: GraphRecord,
    parity: ParityRecord,
    loaded: LoadedYolo,
    options: YoloOptions,
    folder: Path,
) -> ParityRecord:
    if options.nms is None:
        return parity
    path = folder / "suppressed.onnx"
    with storage_errors(path):
        onnx.save(model, str(path))
    try:
        with (
            open_engine(folder / graph.graph.file, backend="onnxruntime", device="cpu") as raw,
            open_engine(path, backend="onnxruntime", device="cpu") as suppressed,
        ):
            error = suppression_error(
                raw, suppressed, loaded.model.config.classes, options.nms, options.size(loaded.image_size),
                rect=options.dynamic, batch=options.batch or 1,
            )  # fmt: skip
    finally:
        path.unlink(missing_ok=True)
    verdict = parity.verdict if error <= MAX_SUPPRESSION_ERROR else "failed"
    thresholds = {**parity.thresholds, "suppression_error_max": MAX_SUPPRESSION_ERROR}
    return msgspec.structs.replace(parity, verdict=verdict, thresholds=thresholds)


def _metadata(loaded: LoadedYolo, options: YoloOptions, size: tuple[int, int], parity: ParityRecord) -> dict[str, str]:
    return yolo_metadata(
        class_names(loaded),
        size,
        "segment" if loaded.model.config.segments else "detect",
        description=f"{loaded.name}, exported by samedge",
        author="samedge",
        version=__version__,
        license=loaded.licence,
        args=repr({"dynamic": options.dynamic, "nms": options.nms is not None, "batch": options.batch or 1}),
        batch=str(options.batch or 1),
        checkpoint=loaded.checkpoint,
        checkpoint_sha256=loaded.sha256,
        seeded=str(loaded.seeded),
        **{PARITY: parity_json(parity)},
    )


def class_names(loaded: LoadedYolo) -> dict[int, str]:
    """Return the names of the classes by number; numbers where the checkpoint does not tell them."""
    return {number: loaded.names.get(number, str(number)) for number in range(loaded.model.config.classes)}
