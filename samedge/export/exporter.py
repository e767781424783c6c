"""From a checkpoint to a proved bundle: the one call behind ``samedge export``."""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from samedge.bundle.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    GraphRecord,
    GraphRole,
    InputRecord,
    Manifest,
    ParityRecord,
    encode_manifest,
)
from samedge.bundle.staging import check_target, staged_bundle
from samedge.engines.protocol import Engine
from samedge.engines.registry import open_engine
from samedge.errors import UsageError, storage_errors
from samedge.export.describe import describe_model
from samedge.export.engines.export import ENGINE_FORMATS, export_with_engines
from samedge.export.graphs.encoder_forms import ENCODER_FORMS, EncoderForm
from samedge.export.graphs.onnx_file import file_record, save_graph
from samedge.export.graphs.plans import plan_graphs
from samedge.export.graphs.trace import trace
from samedge.export.precision.gpu import check_gpu_options, default_form, default_opset, gpu_graphs, is_for_gpus
from samedge.export.precision.ladder import Calibration, int8_encoder
from samedge.export.precision.rounding import judged_graph
from samedge.export.torch_reference import TorchRunner
from samedge.export.yolo.bundle import export_yolo_bundle
from samedge.export.yolo.options import YoloOptions, suppression
from samedge.models.load import load_any
from samedge.models.sam.load import LoadedModel
from samedge.models.sam.sam import MASK_THRESHOLD, PIXEL_MEAN, PIXEL_STD, Sam
from samedge.models.yolo.load import LoadedYolo
from samedge.options import refuse_foreign
from samedge.parity.compare import FP32_THRESHOLDS, INT8_THRESHOLDS, compare
from samedge.parity.graph_runner import GraphRunner, judged_roles
from samedge.parity.probes import probe_set
from samedge.parity.stored_reference import PROBES_NAME, RecordedReference
from samedge.runtime.image.geometry import ImageGeometry, normalised_input
from samedge.runtime.image.read import as_bgr
from samedge.runtime.image.sources import find_images
from samedge.types import Array, IOScheme, Precision
from samedge.version import __version__

ExportFormat: TypeAlias = Literal["onnx", "trt", "rtx", "engine", "tensorrt", "tensorrt-rtx"]
Progress: TypeAlias = Callable[[str, float], None]
"""Called with a sentence about the present step and the share of the whole that is done, 0..1."""

OPSETS: Final = range(17, 21)
"""16 has no LayerNormalization; above 20 the accelerators of common runtimes lack kernels."""

_VERSIONED: Final = ("torch", "onnx", "onnxslim", "onnxruntime", "onnxruntime-gpu", "numpy")


def export_model(
    model: str | Path,
    *,
    format: ExportFormat = "onnx",
    precision: Precision | None = None,
    io: IOScheme = "native",
    opset: int | None = None,
    form: EncoderForm | None = None,
    calib: str | Path | None = None,
    output: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    check: bool = True,
    targets: Sequence[str] = (),
    dynamic: bool = True,
    nms: bool = False,
    conf: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
    agnostic_nms: bool = False,
    for_engines: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a checkpoint as a bundle of ONNX graphs, prove them against the torch model, and return its path.

    Args:
        model: Path of a checkpoint, or a known name such as "sam_b.pt", which is downloaded if it is not on disk.
        format: What to write: "onnx", or "trt", "rtx" or "engine" for TensorRT engines beside the bundle as well, as
            `samedge.build_engines` builds them. Engines that failed are refused when they are loaded.
        precision: What the graphs compute in: "fp32" (the default; "fp16" for engines); "fp16" in all graphs, for GPUs;
            "int8" or "fp8" for the linear layers of the encoder. What is used has the checkpoint's masks
            (`samedge.parity.compare`); otherwise more is kept in float32, in steps, and the notes say why.
            int8 in the form for processors must be faster on this machine as well; in the forms for GPUs, and fp8, the
            rest of the graphs is float16.
        io: Names and shapes of inputs and outputs: "native", "meta" or "samexporter".
        opset: ONNX opset, 17 to 20; by default 17, and 19 for fp8.
        form: How the ViT encoder's global attention is laid out: "chunked" for processors; "mask" or, with less memory,
            "concat" for compilers that fuse attention. The numbers are the same. By default "chunked", and "mask" for
            fp16, fp8 and engines.
        calib: Image, folder or pattern to measure the ranges of fp8 and static int8 on. OpenVINO and TensorRT want it.
            Without it int8 is dynamic, for onnxruntime on processors.
        output: The bundle's folder, or a file that ends with ``.samedge``. By default ``NAME-samedge`` in the working
            folder. An older bundle there is replaced.
        image_size: Side of the square input, px, for architectures whose weights do not tell it. For a YOLO: any side,
            or (height, width), in multiples of 32.
        check: Compare the graphs with the torch model on the probe set and write the verdict into the manifest.
        targets: Compute capabilities such as "8.6" that engines are built for instead of the GPU here (format "rtx").
        dynamic: For a YOLO: leave height and width of the input free, so that the host can cut the padding down.
        nms: For a YOLO: suppress boxes that overlap in the graph.
        conf: With `nms`: boxes score more.
        iou: With `nms`: of two boxes of one class that overlap by more, the one that scores less is dropped.
        max_det: With `nms`: rows that the graph gives for each image.
        agnostic_nms: With `nms`: boxes of different classes suppress each other too.
        for_engines: The graphs will become engines elsewhere: a SAM's form is by default the one that is fused there.
        progress: Called as the work goes on.

    Returns:
        The bundle's path. Its manifest has the verdict: a bundle that failed is written, and refused when it is loaded.

    Raises:
        UsageError: An option that is not known.
        BackendUnavailableError: Engines were asked for, and TensorRT is not installed.
        DeviceUnavailableError: Engines were asked for that are built on a GPU, and there is none.
        CheckpointError: The checkpoint cannot be read, or is of no known architecture.
        DownloadError: A known name could not be fetched.
        ExportError: A graph could not be written, or something is in the way of the bundle.
        StorageError: The file system said no.
    """
    if format in ENGINE_FORMATS:
        return export_with_engines(
            model, format, precision=precision, io=io, opset=opset, form=form, calib=calib, output=output,
            image_size=image_size, check=check, targets=targets, dynamic=dynamic, nms=nms, conf=conf, iou=iou,
            max_det=max_det, agnostic_nms=agnostic_nms, progress=progress,
        )[0]  # fmt: skip
    precision, formed = precision or "fp32", form is not None and form != "chunked"
    form = form or ("mask" if for_engines else default_form(precision))
    opset = opset or default_opset(precision)
    _check_options(format, precision, io, opset, form, calib, targets)
    yolo = YoloOptions(
        image_size, dynamic, nms=suppression(nms=nms, conf=conf, iou=iou, max_det=max_det, agnostic=agnostic_nms)
    )
    report = progress or (lambda _step, _share: None)
    stem = Path(model).stem.replace(":", "-")
    target = Path(output) if output is not None else Path(default_name(stem, io))
    check_target(target)

    report("Reading the checkpoint", 0.0)
    loaded = load_any(model, image_size=image_size, progress=partial(_report_download, report, str(model)))
    if isinstance(loaded, LoadedYolo):
        refuse_foreign("a YOLO", {"--io": io != "native", "--form": formed})
        export_yolo_bundle(
            loaded, target, stem, yolo, precision=precision, opset=opset, calib=calib, check=check,
            versions=_versions(), report=report,
        )  # fmt: skip
        report("Done", 1.0)
        return target
    refuse_foreign("a SAM", {"--nms": nms, "--no-dynamic": not dynamic})
    record = describe_model(loaded)
    calibration = None if calib is None else _calibration(calib, loaded.model)
    with staged_bundle(target) as stage:
        graphs = _write_graphs(loaded, stage, stem, io, form, opset, report)
        parity: ParityRecord | None = None
        notes: tuple[str, ...] = ()
        if is_for_gpus(precision, form, calibrated=calibration is not None):
            judge_all = partial(_judge_for_gpus, loaded, stage, io, report) if check else None
            plans, step = plan_graphs(loaded.model, io, form), partial(_report_within, report, 0.4, 0.6)
            on_gpus = gpu_graphs(precision, graphs, plans, stage, stem, calibration, judge_all, step)
            graphs, parity, notes = on_gpus.graphs, on_gpus.parity, on_gpus.notes
        elif precision == "int8":
            judge = None
            if check:
                judge = partial(_judge_int8, loaded, stage, graphs, io, report)
            plan = plan_graphs(loaded.model, io, form)[0]
            step = partial(_report_within, report, 0.4, 0.6)
            chosen = int8_encoder(graphs[0], plan, stage, stem, calibration, judge, step)
            graphs, parity, notes = (chosen.graph, *graphs[1:]), chosen.parity, chosen.notes
        if not check:
            parity = ParityRecord(verdict="unchecked")
        elif parity is None:
            parity = _check_parity(loaded, stage, graphs, io, report)
        manifest = Manifest(
            schema=SCHEMA_VERSION,
            model=record,
            input=_input_record(loaded.model),
            io=io,
            graphs=graphs,
            parity=parity,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=_versions(),
            notes=notes,
            probes=file_record(stage / PROBES_NAME, stage) if (stage / PROBES_NAME).is_file() else None,
        )
        path = stage / MANIFEST_NAME
        with storage_errors(path):
            path.write_bytes(encode_manifest(manifest))
    report("Done", 1.0)
    return target


def _report_download(report: Progress, name: str, done: int, total: int | None) -> None:
    size = "" if total is None else f" of {total / 1e6:.0f}"
    report(f"Downloading {name}: {done / 1e6:.0f}{size} MB", 0.0)


def default_name(stem: str, io: IOScheme) -> str:
    """Return the folder name that an export gets if none is given."""
    return f"{stem}-samedge" if io == "native" else f"{stem}-samedge-{io}"


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


def _check_options(
    format_: str, precision: str, io: str, opset: int, form: str, calib: str | Path | None, targets: Sequence[str]
) -> None:
    for option, value, known in (
        ("format", format_, get_args(ExportFormat)),
        ("precision", precision, get_args(Precision)),
        ("io", io, get_args(IOScheme)),
        ("form", form, ENCODER_FORMS),
    ):
        if value not in known:
            raise UsageError(
                f"there is no {option} {value!r}", where=f"--{option}", cure=f"Choose one of: {', '.join(known)}"
            )
    if precision == "int8" and io == "samexporter":
        raise UsageError("int8 is not written in the samexporter scheme", where="--io", cure="Choose native or meta")
    if calib is not None and precision not in ("int8", "fp8"):
        raise UsageError("images to calibrate with are for int8", where="--calib", cure="Add --precision int8")
    if targets:
        raise UsageError("targets are for engines", where="--targets", cure="Add --format rtx")
    check_gpu_options(precision, io, opset, calibrated=calib is not None)
    if opset not in OPSETS:
        raise UsageError(
            f"opset {opset} is not supported", where="--opset", cure=f"Choose {OPSETS.start} to {OPSETS.stop - 1}"
        )


def _write_graphs(
    loaded: LoadedModel,
    stage: Path,
    stem: str,
    io: IOScheme,
    form: EncoderForm,
    opset: int,
    report: Progress,
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


def _versions() -> dict[str, str]:
    versions = {"samedge": __version__, "python": platform.python_version()}
    for name in _VERSIONED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
