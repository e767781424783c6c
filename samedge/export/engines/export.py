"""``samedge export --format trt``: a bundle in the form that TensorRT fuses, and its engines beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samedge.api.cached import import_exporter
from samedge.engines.tensorrt.build.options import DEFAULT_WORKSPACE, AxisRange, BuildOptions
from samedge.errors import UsageError
from samedge.export.engines.build import BuiltEngines, build_engines, parse_range
from samedge.export.engines.sam import DEFAULT_POINTS, DEFAULT_PROMPTS
from samedge.export.engines.target import find_target
from samedge.runtime.yolo.suppression import no_suppression
from samedge.types import IOScheme, Precision

if TYPE_CHECKING:
    from samedge.export.graphs.encoder_forms import EncoderForm

ENGINE_FORMATS: Final = ("trt", "rtx", "engine", "tensorrt", "tensorrt-rtx")
"""Names that people type; "engine" is Ultralytics' name, and means the TensorRT that is installed."""

_GRAPHS_SHARE: Final = 0.5


def export_with_engines(
    model: str | Path,
    format_: str,
    *,
    precision: Precision | None = None,
    io: IOScheme = "native",
    opset: int | None = None,
    form: EncoderForm | None = None,
    calib: str | Path | None = None,
    output: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    check: bool = True,
    targets: Sequence[str] = (),
    prompts: AxisRange | str = DEFAULT_PROMPTS,
    points: AxisRange | str = DEFAULT_POINTS,
    batch: AxisRange | str | None = None,
    height: AxisRange | str | None = None,
    width: AxisRange | str | None = None,
    workspace: float = DEFAULT_WORKSPACE,
    optimisation_level: int | None = None,
    device: str | None = None,
    dynamic: bool = True,
    nms: bool = False,
    conf: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
    agnostic_nms: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[Path, BuiltEngines]:
    """Export a checkpoint as a bundle, builds its engines, and returns the bundle's path and what was built.

    What would stop the build is found before anything is exported. The arguments are those of `samedge.export_model`
    and `samedge.build_engines`.

    Args:
        model: Path of a checkpoint, or a known name.
        format_: One of `ENGINE_FORMATS`.
        precision: Of the engines: "fp16" (the default), "fp32", or "int8" or "fp8" with images to calibrate with. The
            bundle itself stays float32 for fp16, which is written into the graphs as the engines are built.
        io: Only "native" has a decoder that TensorRT takes.
        opset: ONNX opset; None for 17, which every TensorRT reads, and 19 for fp8.
        form: Of the encoder of a SAM; None for "mask", which TensorRT fuses.
        calib: Images to calibrate int8 or fp8 with.
        output: The bundle's folder or file.
        image_size: Side of the square input, px, for architectures whose weights do not tell it.
        check: Compare graphs and engines with the checkpoint.
        targets: Compute capabilities, for TensorRT for RTX.
        prompts: Fewest, most usual and most prompts of one call.
        points: The same for points of a prompt.
        batch: For a YOLO: the same for images of one call.
        height: For a YOLO: the same for rows of the input, px.
        width: For a YOLO: the same for columns.
        workspace: Share of the GPU's free memory that kernels may use as scratch space.
        optimisation_level: 0 (fast build) to 5 (fast engine); None for TensorRT's default.
        device: The GPU, such as "cuda:1"; None for the first.
        dynamic: For a YOLO: leave height and width of the input free.
        nms: For a YOLO: suppress boxes that overlap in the graph; TensorRT for RTX has no operator for it.
        conf: With `nms`: boxes score more.
        iou: With `nms`: of two boxes of one class that overlap by more, the one that scores less is dropped.
        max_det: With `nms`: rows that the graph gives for each image.
        agnostic_nms: With `nms`: boxes of different classes suppress each other too.
        progress: Called with a sentence and the share that is done.

    Raises:
        UsageError: The options mean nothing together.
        BackendUnavailableError: TensorRT is not installed; the cure says what to install on this kind of machine.
        DeviceUnavailableError: It needs a GPU to build, and there is none.
        SamedgeError: As `samedge.export_model` and `samedge.build_engines`.
    """
    if io != "native":
        raise UsageError(
            f"engines are built from native bundles, and {io} was asked for",
            where="--io",
            cure="Leave --io out, or choose --format onnx",
        )
    quantised = precision if precision in ("int8", "fp8") else None
    if precision not in (None, "fp16", "fp32") and quantised is None:
        raise UsageError(
            f"there are no {precision} engines", where="--precision", cure="Choose fp16, fp32, int8 or fp8"
        )
    if quantised is not None and calib is None:
        raise UsageError(
            f"TensorRT takes {quantised} with ranges that were measured before",
            where="--precision",
            cure="Add --calib IMAGES",
        )
    for sizes, option in ((prompts, "--prompts"), (points, "--points")):
        parse_range(sizes, option)
    options = BuildOptions(targets=tuple(targets), workspace_share=workspace, optimisation_level=optimisation_level)
    target = find_target(format_, options, device)  # for what it refuses
    if nms and target.flavour.is_rtx:
        raise no_suppression("--nms")

    export_model = import_exporter()

    def report(step: str, share: float, start: float) -> None:
        if progress is not None and (step, start) != ("Done", 0.0):
            progress(step, start + _GRAPHS_SHARE * share)

    bundle = export_model(
        model,
        precision=quantised or "fp32",
        opset=opset,
        form=form,
        for_engines=True,
        calib=calib,
        output=output,
        image_size=image_size,
        check=check,
        dynamic=dynamic,
        nms=nms,
        conf=conf,
        iou=iou,
        max_det=max_det,
        agnostic_nms=agnostic_nms,
        progress=lambda step, share: report(step, share, 0.0),
    )
    built = build_engines(
        bundle,
        flavour=format_,
        # What changed the masks is not in the bundle; its notes say so.
        precision=None if quantised is not None else precision,
        prompts=prompts,
        points=points,
        batch=batch,
        height=height,
        width=width,
        targets=targets,
        workspace=workspace,
        optimisation_level=optimisation_level,
        device=device,
        check=check,
        progress=lambda step, share: report(step, share, _GRAPHS_SHARE),
    )
    return bundle, built
