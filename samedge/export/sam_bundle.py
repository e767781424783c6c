"""From a SAM to a bundle: its graphs, traced, written in a precision and judged against the torch model."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from samedge.bundle.manifest import GraphRecord, GraphRole, InputRecord, Manifest, ModelRecord, ParityRecord
from samedge.engines.protocol import Engine
from samedge.engines.registry import open_engine
from samedge.export.describe import count_gflops, model_record, provenance
from samedge.export.graphs.onnx_file import add_metadata, file_record, save_graph
from samedge.export.graphs.plans import plan_graphs
from samedge.export.graphs.trace import trace
from samedge.export.precision.gpu import default_form, gpu_graphs, is_for_gpus
from samedge.export.precision.ladder import Calibration, WrittenGraph, int8_encoder
from samedge.export.precision.rounding import judged_graph
from samedge.export.torch_reference import TorchRunner
from samedge.models.sam.load import LoadedModel
from samedge.models.sam.sam import MASK_THRESHOLD, PIXEL_MEAN, PIXEL_STD, Sam
from samedge.options import ExportOptions, refuse_foreign
from samedge.parity.compare import FP32_THRESHOLDS, INT8_THRESHOLDS, compare
from samedge.parity.graph_runner import GraphRunner, judged_roles
from samedge.parity.probes import probe_set
from samedge.parity.stored_reference import PROBES_NAME, RecordedReference
from samedge.runtime.image.geometry import ImageGeometry, normalised_input
from samedge.runtime.image.read import as_bgr
from samedge.runtime.image.sources import find_images
from samedge.types import Array, EncoderForm, IOScheme, Progress
from samedge.version import __version__


class SamExporter:
    """The `samedge.export.family.FamilyExporter` of SAM."""

    def describe(self, loaded: LoadedModel, image_size: int | tuple[int, int] | None = None) -> ModelRecord:
        """See `FamilyExporter`: its input has one size."""
        return model_record(loaded, *count_gflops(loaded.model))

    def write(self, loaded: LoadedModel, stage: Path, stem: str, options: ExportOptions, report: Progress) -> Manifest:
        """See `write_sam_bundle`."""
        return write_sam_bundle(loaded, stage, stem, options, report)


def write_sam_bundle(loaded: LoadedModel, stage: Path, stem: str, options: ExportOptions, report: Progress) -> Manifest:
    """Write the graphs of a SAM into a folder, prove them, and return the manifest of their bundle.

    Args:
        loaded: The model.
        stage: The folder.
        stem: Beginning of file names.
        options: What was asked for.
        report: Called as the work goes on.

    Raises:
        UsageError: An option means nothing for a SAM.
        SamedgeError: As `samedge.export_model`.
    """
    refuse_foreign("a SAM", {"--nms": options.yolo.nms, "--no-dynamic": not options.yolo.dynamic})
    precision, io = options.graph_precision, options.sam.io
    form = options.sam.form or ("mask" if options.sam.for_engines else default_form(precision))
    record = model_record(loaded, *count_gflops(loaded.model))
    calibration = None if options.calib is None else _calibration(options.calib, loaded.model)
    graphs = _write_graphs(loaded, stage, stem, io, form, options.graph_opset, report)
    parity: ParityRecord | None = None
    notes: tuple[str, ...] = ()
    if is_for_gpus(precision, form, calibrated=calibration is not None):
        judge_all = partial(_judge_for_gpus, loaded, stage, io, report) if options.check else None
        plans, step = plan_graphs(loaded.model, io, form), partial(_report_within, report, 0.4, 0.6)
        on_gpus = gpu_graphs(precision, graphs, plans, stage, stem, calibration, judge_all, step)
        graphs, parity, notes = on_gpus.graphs, on_gpus.parity, on_gpus.notes
    elif precision == "int8":
        judge = partial(_judge_int8, loaded, stage, graphs, io, report) if options.check else None
        plan, step = plan_graphs(loaded.model, io, form)[0], partial(_report_within, report, 0.4, 0.6)
        chosen = int8_encoder(WrittenGraph(graphs[0], plan, stage, stem), calibration, judge, step)
        graphs, parity, notes = (chosen.graph, *graphs[1:]), chosen.parity, chosen.notes
    if not options.check:
        parity = ParityRecord(verdict="unchecked")
    elif parity is None:
        parity = _check_parity(loaded, stage, graphs, io, report)
    graphs = tuple(_described(graph, stage, record, _input_record(loaded.model), io, parity) for graph in graphs)
    return Manifest(
        **provenance(),
        model=record,
        input=_input_record(loaded.model),
        io=io,
        graphs=graphs,
        parity=parity,
        notes=notes,
        probes=file_record(stage / PROBES_NAME, stage) if (stage / PROBES_NAME).is_file() else None,
    )


def _described(
    graph: GraphRecord, stage: Path, model: ModelRecord, source: InputRecord, io: IOScheme, parity: ParityRecord
) -> GraphRecord:
    """Write into the file of a graph what a reader needs who has this file alone."""
    figures = {name: getattr(parity, name) for name in ("verdict", "mask_iou_mean", "mask_iou_min", "iou_error_max")}
    doc = f"{graph.role.replace('_', ' ')} of {model.name}, exported by samedge {__version__}"
    metadata = {
        "description": doc,
        "author": "samedge",
        "version": __version__,
        "license": model.licence,
        "task": "segment-anything",
        "model": model.name,
        "role": graph.role,
        "dialect": io,
        "precision": graph.precision,
        "imgsz": json.dumps([source.image_size] * 2),
        "mean": json.dumps(source.pixel_mean),
        "std": json.dumps(source.pixel_std),
        "mask_threshold": json.dumps(source.mask_threshold),
        "checkpoint": model.checkpoint,
        "checkpoint_sha256": model.checkpoint_sha256,
        "seeded": str(model.seeded),
        "parity": json.dumps(figures),
    }
    return add_metadata(graph, stage, doc, metadata)


def _report_within(report: Progress, start: float, length: float, step: str, share: float) -> None:
    report(step, start + length * share)


def _calibration(images: str | Path, sam: Sam) -> Calibration:
    paths = find_images(Path(images))

    def feeds() -> Iterator[dict[str, Array]]:
        for path in paths:
            bgr = as_bgr(path)
            geometry = ImageGeometry.of(bgr.shape[0], bgr.shape[1], sam.image_size)
            yield {"image": normalised_input(bgr, geometry, PIXEL_MEAN, PIXEL_STD)}

    return Calibration(feeds, len(paths))


def _write_graphs(
    loaded: LoadedModel, stage: Path, stem: str, io: IOScheme, form: EncoderForm, opset: int, report: Progress
) -> tuple[GraphRecord, ...]:
    plans = plan_graphs(loaded.model, io, form)
    records = []
    for done, plan in enumerate(plans):
        report(f"Writing the {plan.role.replace('_', ' ')}", 0.05 + 0.35 * done / len(plans))
        graph = trace(plan, opset)
        records.append(save_graph(graph, plan, stage, stem, precision="fp32", opset=opset))
        del graph
        gc.collect()  # a traced model holds its weights in reference cycles
    return tuple(records)


def _judge_int8(
    loaded: LoadedModel,
    stage: Path,
    graphs: tuple[GraphRecord, ...],
    io: IOScheme,
    report: Progress,
    encoder: GraphRecord,
    backend: str,
) -> ParityRecord:
    """Compare the bundle with another encoder in place of its own."""
    return _check_parity(
        loaded, stage, (encoder, *graphs[1:]), io, report,
        backend=backend, thresholds=INT8_THRESHOLDS, shown_only=True,
    )  # fmt: skip


def _judge_for_gpus(
    loaded: LoadedModel,
    stage: Path,
    io: IOScheme,
    report: Progress,
    graphs: tuple[GraphRecord, ...],
    thresholds: Mapping[str, float],
) -> ParityRecord:
    """Compare a bundle of these graphs on a processor, with float16 as GPUs round it."""
    return _check_parity(loaded, stage, graphs, io, report, thresholds=thresholds, shown_only=True)


def _check_parity(
    loaded: LoadedModel,
    stage: Path,
    graphs: tuple[GraphRecord, ...],
    io: IOScheme,
    report: Progress,
    *,
    backend: str = "onnxruntime",
    thresholds: Mapping[str, float] = FP32_THRESHOLDS,
    shown_only: bool = False,
) -> ParityRecord:
    sam = loaded.model
    probes = probe_set(sam.image_size, sam.embedding_size)

    def probed(done: int) -> None:
        report(f"Comparing with the checkpoint: image {done} of {len(probes)}", 0.4 + 0.6 * done / len(probes))

    report("Opening the graphs", 0.4)
    recorded = RecordedReference(TorchRunner(sam, judged_roles(graph.role for graph in graphs)), probes)
    with ExitStack() as stack:
        files = {
            graph.role: stack.enter_context(judged_graph(stage / graph.graph.file, graph.precision)) for graph in graphs
        }
        engines: dict[GraphRole, Engine] = {
            role: stack.enter_context(open_engine(file, backend=backend, device="cpu")) for role, file in files.items()
        }
        how = ", float16 rounded" if any(file.parent != stage for file in files.values()) else ""
        encoder = engines["encoder"]
        parity = compare(
            recorded,
            GraphRunner(engines, io, _input_record(sam), sam.embedding_size),
            probes,
            backend=f"{encoder.backend} {encoder.device}{how}",
            thresholds=thresholds,
            shown_only=shown_only,
            progress=probed,
        )
    recorded.save(stage)
    return parity


def _input_record(sam: Sam) -> InputRecord:
    return InputRecord(
        image_size=sam.image_size, pixel_mean=PIXEL_MEAN, pixel_std=PIXEL_STD, mask_threshold=MASK_THRESHOLD
    )
