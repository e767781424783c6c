"""Export of SAMs: graphs are traced, written in a precision, and compared with the torch model."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from samedge.bundle.manifest import GraphRecord, GraphRole, InputRecord, Manifest, ModelRecord, ParityRecord
from samedge.engines.protocol import Engine
from samedge.engines.registry import open_engine
from samedge.errors import SamedgeWarning
from samedge.export.describe import count_gflops, model_record, provenance
from samedge.export.family import part_of
from samedge.export.graphs.onnx_file import add_metadata, file_record, save_graph
from samedge.export.graphs.plans import plan_graphs
from samedge.export.graphs.trace import trace
from samedge.export.precision.calibration import Calibration
from samedge.export.precision.gpu import default_form, gpu_graphs, is_for_gpus
from samedge.export.precision.ladder import WrittenGraph, int8_encoder
from samedge.export.precision.rounding import judged_graph
from samedge.export.tools import ANYLABELING, tool_misfit, write_anylabeling
from samedge.export.torch_reference import TorchRunner
from samedge.models.sam.load import LoadedModel
from samedge.models.sam.sam import MASK_THRESHOLD, Sam
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
        """Describe the model; its input has one size."""
        return model_record(loaded, *count_gflops(loaded.model))

    def write(self, loaded: LoadedModel, stage: Path, stem: str, options: ExportOptions, report: Progress) -> Manifest:
        """Write the graphs in the fastest form of the precision that preserves the masks."""
        refuse_foreign("a SAM", {"--nms": options.yolo.nms, "--no-dynamic": not options.yolo.dynamic})
        precision, io, sam = options.graph_precision, options.sam.io, loaded.model
        misfit = tool_misfit(io, sam)
        if misfit:
            warnings.warn(misfit, SamedgeWarning, stacklevel=2)
        form = options.sam.form or ("mask" if options.sam.for_engines else default_form(precision))
        calibration = None if options.calib is None else _calibration(options.calib, sam)
        graphs = _write_graphs(sam, stage, stem, io, form, options.graph_opset, report)
        check = partial(_check_parity, sam, stage, io, report)
        parity: ParityRecord | None = None
        notes: tuple[str, ...] = ()
        plans, step = plan_graphs(sam, io, form), part_of(report, 0.4, 0.6)
        if is_for_gpus(precision, form, calibrated=calibration is not None):
            judge = partial(check, shown_only=True) if options.check else None
            chosen = gpu_graphs(precision, graphs, plans, stage, stem, calibration, judge, step)
            graphs, parity, notes = chosen.graphs, chosen.parity, chosen.notes
        elif precision == "int8":
            others = graphs[1:]

            def judge_int8(encoder: GraphRecord, backend: str) -> ParityRecord:
                return check((encoder, *others), INT8_THRESHOLDS, backend=backend, shown_only=True)

            written = WrittenGraph(graphs[0], plans[0], stage, stem)
            chosen = int8_encoder(written, calibration, judge_int8 if options.check else None, step)
            graphs, parity, notes = (*chosen.graphs, *others), chosen.parity, chosen.notes
        if not options.check:
            parity = ParityRecord(verdict="unchecked")
        elif parity is None:
            parity = check(graphs, FP32_THRESHOLDS)
        if io in ANYLABELING:
            write_anylabeling(stage, loaded.name, graphs, sam.image_size)
        model, source = self.describe(loaded), _input_record(sam)
        return Manifest(
            **provenance(),
            model=model,
            input=source,
            io=io,
            graphs=tuple(_described(graph, stage, model, source, io, parity) for graph in graphs),
            parity=parity,
            notes=notes,
            probes=file_record(stage / PROBES_NAME, stage) if (stage / PROBES_NAME).is_file() else None,
        )


def _described(
    graph: GraphRecord, stage: Path, model: ModelRecord, source: InputRecord, io: IOScheme, parity: ParityRecord
) -> GraphRecord:
    """Write what describes a graph into its own file, for use without the bundle."""
    figures = {name: getattr(parity, name) for name in ("verdict", "mask_iou_mean", "mask_iou_min", "iou_error_max")}
    description = f"{graph.role.replace('_', ' ')} of {model.name}, exported by samedge {__version__}"
    metadata = {
        "description": description,
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
        "stretched": json.dumps(source.stretched is True),
        "mask_threshold": json.dumps(source.mask_threshold),
        "checkpoint": model.checkpoint,
        "checkpoint_sha256": model.checkpoint_sha256,
        "seeded": str(model.seeded),
        "parity": json.dumps(figures),
    }
    return add_metadata(graph, stage, description, metadata)


def _calibration(images: str | Path, sam: Sam) -> Calibration:
    paths = find_images(Path(images))

    def feeds() -> Iterator[dict[str, Array]]:
        for path in paths:
            bgr = as_bgr(path)
            geometry = ImageGeometry.of(bgr.shape[0], bgr.shape[1], sam.image_size)
            yield {"image": normalised_input(bgr, geometry, sam.normalisation)}

    return Calibration(feeds, len(paths))


def _write_graphs(
    sam: Sam, stage: Path, stem: str, io: IOScheme, form: EncoderForm, opset: int, report: Progress
) -> tuple[GraphRecord, ...]:
    plans = plan_graphs(sam, io, form)
    records = []
    for done, plan in enumerate(plans):
        report(f"Writing the {plan.role.replace('_', ' ')}", 0.05 + 0.35 * done / len(plans))
        records.append(save_graph(trace(plan, opset), plan, stage, stem, precision="fp32", opset=opset))
        gc.collect()  # a traced model holds its weights in reference cycles
    return tuple(records)


def _check_parity(
    sam: Sam,
    stage: Path,
    io: IOScheme,
    report: Progress,
    graphs: tuple[GraphRecord, ...],
    thresholds: Mapping[str, float],
    *,
    backend: str = "onnxruntime",
    shown_only: bool = False,
) -> ParityRecord:
    """Compare a bundle of these graphs with the model on the CPU, with float16 rounded as on GPUs."""
    probes = probe_set(sam.image_size, sam.embedding_size)
    report("Opening the graphs", 0.4)
    recorded = RecordedReference(TorchRunner(sam, judged_roles(graph.role for graph in graphs)), probes)
    with ExitStack() as stack:
        files = {
            graph.role: stack.enter_context(judged_graph(stage / graph.graph.file, graph.precision)) for graph in graphs
        }
        engines: dict[GraphRole, Engine] = {
            role: stack.enter_context(open_engine(file, backend=backend, device="cpu")) for role, file in files.items()
        }
        rounded = ", float16 rounded" if any(file.parent != stage for file in files.values()) else ""
        encoder = engines["encoder"]
        parity = compare(
            recorded,
            GraphRunner(engines, io, _input_record(sam), sam.embedding_size),
            probes,
            backend=f"{encoder.backend} {encoder.device}{rounded}",
            thresholds=thresholds,
            shown_only=shown_only,
            progress=part_of(report, 0.4, 0.6),
        )
    recorded.save(stage)
    return parity


def _input_record(sam: Sam) -> InputRecord:
    own = sam.normalisation
    return InputRecord(
        sam.image_size, own.pixel_mean, own.pixel_std, MASK_THRESHOLD, stretched=own.stretched or msgspec.UNSET
    )
