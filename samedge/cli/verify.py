"""``samedge verify``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def verify(
    bundle: Annotated[str, typer.Argument(help="Bundle: the folder or .samedge file that samedge export wrote.")],
    backend: Annotated[
        str, typer.Option(help="onnxruntime, openvino, tensorrt, tensorrt-rtx, or auto for the first available.")
    ] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, or a backend's own name.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all physical cores by default.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Prove on this machine, without torch, that a bundle or its engines reproduce the checkpoint's masks.

    Compares them with the checkpoint's outputs that the export stored in the bundle; a YOLO model with its own graph on
    another backend, on the CPU. The exit status is 1 if they differ.
    """
    from rich.console import Console

    from samedge.cli.progress import shown_progress
    from samedge.cli.tables import parity_table
    from samedge.errors import ParityError
    from samedge.parity.verify import verify_bundle
    from samedge.tables import json_text

    with shown_progress() as progress:
        record = verify_bundle(bundle, backend=backend, device=device, threads=threads, progress=progress)
    if json:
        sys.stdout.write(json_text(record))
    else:
        Console().print(parity_table(record))
    sys.stdout.flush()
    if record.verdict == "failed":
        raise ParityError(
            f"on {record.backend} the masks differ from the checkpoint's",
            where=bundle,
            cure="Use another backend, or build the engines again: samedge build",
        )
