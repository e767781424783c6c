"""``samedge export``."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import typer

_YOLO: Final[Any] = {"rich_help_panel": "YOLO and FastSAM"}


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint, or a known name such as sam_b.pt, mobile_sam.pt or yolov8n-seg.pt.")
    ],
    format_: Annotated[str, typer.Option("--format", help="What to write: onnx.")] = "onnx",
    precision: Annotated[
        str, typer.Option(help="What the graphs compute in: fp32, or int8 where masks stay and it is faster.")
    ] = "fp32",
    io: Annotated[str, typer.Option(help="Names and shapes: native, meta or samexporter.")] = "native",
    opset: Annotated[int, typer.Option(help="ONNX opset, 17 to 20.")] = 17,
    form: Annotated[
        str, typer.Option(help="Attention of the encoder: chunked (processors), mask or concat (compilers for GPUs).")
    ] = "chunked",
    calib: Annotated[
        str | None, typer.Option(help="Images for static int8 (OpenVINO, TensorRT): a folder, a file or a pattern.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder of the bundle, or a file that ends with .samedge.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the input in px, where the weights do not tell it (TinyViT, YOLO).")
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare the graphs with the checkpoint.")] = True,
    dynamic: Annotated[
        bool, typer.Option(help="Leave height and width of the input free, or fix them.", **_YOLO)
    ] = True,
    nms: Annotated[bool, typer.Option("--nms", help="Suppress boxes that overlap in the graph.", **_YOLO)] = False,
    conf: Annotated[float, typer.Option(help="With --nms: boxes score more.", **_YOLO)] = 0.25,
    iou: Annotated[float, typer.Option(help="With --nms: overlap from which a box is dropped.", **_YOLO)] = 0.7,
    max_det: Annotated[int, typer.Option(help="With --nms: rows for each image.", **_YOLO)] = 300,
    agnostic_nms: Annotated[bool, typer.Option("--agnostic-nms", help="With --nms: across classes.", **_YOLO)] = False,
) -> None:
    """Writes a checkpoint as a bundle of ONNX graphs, and proves that they give its masks.

    Shows progress and the parity table on stderr, and prints the bundle's path last, on stdout.
    """
    from rich.console import Console

    from samedge.cli.progress import shown_progress
    from samedge.cli.tables import parity_table
    from samedge.errors import ParityError
    from samedge.export.cached import import_exporter
    from samedge.runtime.bundle import bundle_manifest

    export_model = import_exporter()
    with shown_progress() as progress:
        path = export_model(
            checkpoint,
            format=format_,
            precision=precision,
            io=io,
            opset=opset,
            form=form,
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
            progress=progress,
        )
    manifest = bundle_manifest(path)
    parity = manifest.parity
    if check:
        Console(stderr=True).print(parity_table(parity))
    for note in manifest.notes:
        Console(stderr=True).print(f"{note[0].upper()}{note[1:]}.", markup=False, highlight=False)
    sys.stdout.write(f"{path}\n")
    sys.stdout.flush()
    if parity.verdict == "failed":
        raise ParityError(
            "the graphs do not give the checkpoint's masks", where=path, cure="The bundle loads with --force only"
        )
