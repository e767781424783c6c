"""``samedge inspect`` and ``samedge import``: ONNX graphs of any tool."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from samedge.bundle.graph_report import GraphReport


def inspect(
    file: Annotated[Path, typer.Argument(help="ONNX graph or engine of any tool, or a folder of graphs.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show whose graph it is, what it takes and returns, its known faults, and whether TensorRT can build it."""
    from samedge.bundle.archive import ENGINE_SUFFIXES
    from samedge.bundle.graph_report import report_graph
    from samedge.errors import UsageError
    from samedge.tables import json_text

    if file.suffix.lower() in ENGINE_SUFFIXES:
        from samedge.cli.engine_info import show_engine

        show_engine(file, as_json=json, opened=False)
        return
    files = sorted(file.rglob("*.onnx")) if file.is_dir() else [file]
    if not files:
        raise UsageError("there are no ONNX graphs in this folder", where=file, cure="Give a file, or another folder")
    reports = [report_graph(path) for path in files]
    if json:
        documents = [report.document() for report in reports]
        sys.stdout.write(json_text(documents if file.is_dir() else documents[0]))
        return
    for report in reports:
        _show(report)


def _show(report: GraphReport) -> None:
    from rich.console import Console

    from samedge.tables import rich_table

    run = f"samedge.load runs it ({report.scheme})" if report.scheme else "not run here as a half of a SAM"
    rows = {
        "graph": f"{report.part}: {report.exporter}",
        "convention": report.remark,
        "here": run,
        "file": f"{report.size / 1e6:.1f} MB, opset {report.opset}, {report.nodes:,} nodes, written by "
        f"{report.writer or 'an unnamed program'}",
        "description": report.doc,
        "metadata": "\n".join(f"{name}: {value}" for name, value in report.metadata.items()),
        "known faults": "\n".join(report.faults) or "none",
        "TensorRT": "\n".join(report.tensorrt) or "nothing known that stops a build",
    }
    console = Console()
    shown = ((name, value) for name, value in rows.items() if value)
    console.print(rich_table(str(report.path), ("", ""), shown, show_header=False))
    ports = [
        (side, name, spec.dtype.name, " × ".join(map(str, spec.shape)))
        for side, specs in (("in", report.inputs), ("out", report.outputs))
        for name, spec in specs.items()
    ]
    console.print(rich_table("inputs and outputs", ("", "name", "dtype", "shape"), ports))


def import_(
    graphs: Annotated[Path, typer.Argument(help="Folder with encoder and decoder, or one of the two files.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Bundle to write; default NAME-samedge.")
    ] = None,
    decoder: Annotated[
        Path | None, typer.Option(help="Decoder, if it is not beside the encoder that is given.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; by default from the file's name.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="Side of the square input, px, if the graphs leave it open.")
    ] = None,
) -> None:
    """Make a bundle of a pair of ONNX graphs of any tool. Nothing is proved: its parity is "unchecked"."""
    import msgspec

    from samedge.api.load import load
    from samedge.bundle.archive import open_bundle, open_pair
    from samedge.bundle.manifest import MANIFEST_NAME
    from samedge.bundle.plain_graphs import import_graphs
    from samedge.errors import UsageError

    if graphs.is_dir() and (graphs / MANIFEST_NAME).is_file():
        raise UsageError("this is already a bundle", where=graphs, cure="Use it as it is")
    opened = open_bundle(graphs) if decoder is None else open_pair(graphs, decoder)
    manifest = opened.manifest
    model = msgspec.structs.replace(
        manifest.model, name=name or manifest.model.name, licence=licence or manifest.model.licence
    )
    source, notes = manifest.input, manifest.notes
    if image_size is not None:
        source = msgspec.structs.replace(source, image_size=image_size)
        notes = tuple(note for note in notes if " assumed: " not in note)
    manifest = msgspec.structs.replace(manifest, model=model, input=source, notes=notes)
    target = output or Path(f"{model.name}-samedge")
    import_graphs(manifest, opened.folder, target)
    load(target, "onnxruntime", "cpu").close()  # it opens, and answers a click
    for note in notes:
        sys.stdout.write(f"note: {note}\n")
    sys.stdout.write(f"{target}\n")
