"""``samedge export``."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final, cast

import typer

_YOLO: Final[Any] = {"rich_help_panel": "YOLO and FastSAM"}
_ENGINES: Final[Any] = {"rich_help_panel": "Engines (--format trt, rtx or engine)"}


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint, or a known name such as sam_b.pt, mobile_sam.pt or yolov8n-seg.pt.")
    ],
    format_: Annotated[
        str, typer.Option("--format", help="onnx, or trt, rtx or engine to build engines as well.")
    ] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(help="Precision, as far as the masks allow: fp32, int8, fp16 or fp8 (GPUs); fp16 for engines."),
    ] = None,
    io: Annotated[
        str, typer.Option(help="Names and shapes of the tensors: native, meta, samexporter or osam.")
    ] = "native",
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 17 (default; fp8: 19) to 20.")] = None,
    form: Annotated[
        str | None,
        typer.Option(
            help="Attention of the encoder: chunked (CPUs; the default), mask (GPUs; the default of fp16 and fp8) "
            "or concat (GPUs with little memory)."
        ),
    ] = None,
    calib: Annotated[
        str | None,
        typer.Option(help="Calibration images for fp8 and static int8 (OpenVINO, TensorRT): folder, file or pattern."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder of the bundle, or a file ending in .samedge.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the input in px, if the weights do not determine it (TinyViT, YOLO).")
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare the graphs with the checkpoint.")] = True,
    weights_key: Annotated[
        str | None, typer.Option(help="In a checkpoint of several models: the one to read, e.g. state_dict_ema.")
    ] = None,
    lora_scale: Annotated[
        float | None, typer.Option(help="Scale of LoRA layers in the checkpoint: lora_alpha divided by r.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Checkpoint that a decoder or LoRA layers saved alone were trained from.")
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(help="Compute capabilities of the engines, such as 8.6,8.9 (--format rtx).", **_ENGINES),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Prompts per call: min/opt/max; 1/16/64 by default.", **_ENGINES)
    ] = None,
    points: Annotated[
        str | None, typer.Option(help="Points per prompt: min/opt/max; 2/3/16 by default.", **_ENGINES)
    ] = None,
    workspace: Annotated[
        float | None,
        typer.Option(help="Fraction of the free GPU memory for scratch space; 0.5 by default.", **_ENGINES),
    ] = None,
    optimisation_level: Annotated[
        int | None,
        typer.Option("--optimisation-level", "--optimization-level", help="0 (fast build) to 5.", **_ENGINES),
    ] = None,
    device: Annotated[str | None, typer.Option(help="GPU that builds the engines, such as cuda:1.", **_ENGINES)] = None,
    dynamic: Annotated[bool, typer.Option(help="Input of any height and width, or of a fixed size.", **_YOLO)] = True,
    nms: Annotated[bool, typer.Option("--nms", help="Non-maximum suppression inside the graph.", **_YOLO)] = False,
    conf: Annotated[float, typer.Option(help="With --nms: minimum score of a box.", **_YOLO)] = 0.25,
    iou: Annotated[
        float, typer.Option(help="With --nms: IoU with a better box above which a box is dropped.", **_YOLO)
    ] = 0.7,
    max_det: Annotated[int, typer.Option(help="With --nms: rows per image.", **_YOLO)] = 300,
    agnostic_nms: Annotated[bool, typer.Option("--agnostic-nms", help="With --nms: across classes.", **_YOLO)] = False,
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end", help="Use the head of a YOLO26 that needs no suppression.", **_YOLO)
    ] = False,
) -> None:
    """Write a checkpoint as a bundle of ONNX graphs, and prove that they reproduce its masks.

    With --format trt or rtx, build its engines beside it as well, like samedge build, which has more options. Progress
    and the parity table go to stderr; the path of the bundle is printed last, on stdout.
    """
    from rich.console import Console

    from samedge.bundle.archive import bundle_manifest
    from samedge.cli.build import refuse_failed, show_built
    from samedge.cli.progress import shown_progress
    from samedge.cli.tables import parity_table
    from samedge.errors import ParityError
    from samedge.export.exporter import export as export_checkpoint
    from samedge.options import ExportOptions

    engines = {"targets": targets.split(",") if targets else None, "prompts": prompts, "points": points,
               "workspace": workspace, "optimisation_level": optimisation_level, "device": device}  # fmt: skip
    options = ExportOptions().updated(
        cast("Any", format_), precision=cast("Any", precision), io=cast("Any", io), opset=opset, form=cast("Any", form),
        calib=calib, output=output, image_size=image_size, check=check, weights_key=weights_key,
        lora_scale=lora_scale, base=base, dynamic=dynamic, nms=nms, conf=conf, iou=iou,
        max_det=max_det, agnostic_nms=agnostic_nms, end_to_end=end_to_end,
        **cast("Any", {name: value for name, value in engines.items() if value is not None}),
    )  # fmt: skip
    with shown_progress() as progress:
        path, built = export_checkpoint(checkpoint, options, progress)
    manifest = bundle_manifest(path)
    parity = manifest.parity
    if check:
        Console(stderr=True).print(parity_table(parity))
    for note in (*manifest.model.notes, *manifest.notes):
        Console(stderr=True).print(f"{note[0].upper()}{note[1:]}.", markup=False, highlight=False)
    if built is not None:
        show_built(built)
    sys.stdout.write(f"{path}\n")
    sys.stdout.flush()
    if built is not None:
        refuse_failed(built, path)
    if parity.verdict == "failed":
        raise ParityError(
            "the graphs do not reproduce the checkpoint's masks",
            where=path,
            cure="Export in another precision; this bundle loads only with --force",
        )
