"""``samedge profile``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from samedge.benchmarks.profile.profile import Profile

_COLUMNS: Final = 200
"""Width of tables that are not printed on a terminal."""


def profile(
    model: Annotated[str, typer.Argument(help="Bundle, checkpoint, or a graph file: .onnx, .xml, .engine.")],
    graph: Annotated[
        str | None,
        typer.Option(
            help="Graph of a bundle: encoder (default), decoder, decoder_context, decoder_prompts, decoder_masks ..."
        ),
    ] = None,
    backend: Annotated[str, typer.Option(help="Backend: onnxruntime, openvino, tensorrt ...")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; an error if unavailable.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    runs: Annotated[int, typer.Option(help="Measured runs.")] = 5,
    prompts: Annotated[int, typer.Option(help="Prompts per call of a decoder.")] = 1,
    points: Annotated[int, typer.Option(help="Points per prompt, including padding.")] = 2,
    batch: Annotated[int, typer.Option(help="Images per call of an encoder.")] = 1,
    source: Annotated[
        Path | None, typer.Option(help="ONNX graph that an engine file was built from, to count operations.")
    ] = None,
    roof: Annotated[bool, typer.Option(help="Measure the peak performance of the machine.")] = True,
    top: Annotated[int, typer.Option(help="Layers to show.")] = 15,
    format_: Annotated[str, typer.Option("--format", help="table, markdown, csv or json.")] = "table",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for profile.json, .md, .csv and the plot .png.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Open a bundle that failed its parity check.")] = False,
) -> None:
    """Profile a graph: time by layer and by kind of work, compared with the machine's peak performance."""
    from samedge.benchmarks.profile.profile_model import ProfileOptions, profile_model
    from samedge.cli.predict import bundle_of
    from samedge.cli.profile_tables import profile_tables
    from samedge.cli.progress import shown_progress
    from samedge.errors import UsageError
    from samedge.tables import FORMATS, json_text, print_tables, unknown_format

    if format_ not in FORMATS:
        raise unknown_format(format_)
    if min(prompts, points, batch, top) < 1:
        raise UsageError("--prompts, --points, --batch and --top must be positive", cure="Give 1 or more")
    options = ProfileOptions(
        graph=graph or "", backend=backend, device=device, threads=threads, runs=runs, source=source, peaks=roof,
        force=force, sizes={"prompts": prompts, "points": points, "batch": batch},
    )  # fmt: skip
    command = " ".join(["samedge", *sys.argv[1:]])
    with shown_progress() as progress:
        profiled = profile_model(model, options, command=command, progress=progress, resolve=bundle_of)
    if output is not None:
        _write(profiled, output)
    if format_ == "json":
        sys.stdout.write(json_text(profiled))
    else:
        print_tables(profile_tables(profiled, top), format_, columns=_COLUMNS)


def _write(profiled: Profile, folder: Path) -> None:
    from samedge.benchmarks.profile.plot import plot_profile
    from samedge.cli.profile_tables import layers_table, profile_tables
    from samedge.errors import MissingExtraError
    from samedge.tables import json_text, tables_text, write_texts

    every = layers_table(list(profiled.layers), len(profiled.layers), shorten=False)
    tables = profile_tables(profiled, len(profiled.layers))
    texts = {".json": json_text(profiled), ".md": tables_text(tables, "markdown"), ".csv": tables_text([every], "csv")}
    write_texts(texts, folder, "profile")
    try:
        plot_profile(profiled, folder / "profile.png")
    except MissingExtraError as error:
        sys.stderr.write(f"no plot: {error}\n")
    sys.stderr.write(f"written to {folder}\n")
