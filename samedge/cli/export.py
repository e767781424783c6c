"""``samedge export``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint, or a known name such as sam_b.pt or mobile_sam.pt.")],
    format_: Annotated[str, typer.Option("--format", help="What to write: onnx.")] = "onnx",
    precision: Annotated[
        str, typer.Option(help="What the graphs compute in where masks stay: fp32, int8, fp16 (GPUs) or fp8 (GPUs).")
    ] = "fp32",
    io: Annotated[str, typer.Option(help="Names and shapes: native, meta or samexporter.")] = "native",
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 17 (default; fp8: 19) to 20.")] = None,
    form: Annotated[
        str | None,
        typer.Option(
            help="Attention of the encoder: chunked (processors; default), mask (GPUs; default of fp16 and fp8) "
            "or concat (GPUs with little memory)."
        ),
    ] = None,
    calib: Annotated[
        str | None, typer.Option(help="Images for fp8 and static int8 (OpenVINO, TensorRT): folder, file or pattern.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder of the bundle, or a file that ends with .samedge.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the input in px, where the weights do not tell it (TinyViT).")
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare the graphs with the checkpoint.")] = True,
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
