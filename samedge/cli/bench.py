"""``samedge bench``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from samedge.errors import UsageError


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Bundles, graphs, checkpoints or names; "
            "by default SAM-b, MobileSAM, FastSAM-s, YOLOv8n-seg and sam_demo."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds; every model runs every step in each.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Warm-up rounds.")] = 2,
    everything_rounds: Annotated[
        int, typer.Option(min=1, help="Rounds of segment everything on SAM, which takes a thousand clicks per image.")
    ] = 3,
    everything_points: Annotated[int, typer.Option(min=1, help="Points along each side of its grid.")] = 32,
    mode: Annotated[str, typer.Option(help="Mode of segment everything: exact (Meta's masks) or fast.")] = "exact",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of every model; 0 for all physical cores.")] = 0,
    backend: Annotated[str, typer.Option(help="Backend, or auto: see samedge info --backends.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; an error if unavailable.")] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="Image; by default two bundled ones. Can be repeated.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns to measure and show, such as size,encode,prompt,rss; by default all.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="reference-page: the table of Ultralytics' page about SAM, explained.")
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Add the installed ones of Meta's torch code, plain ONNX and Ultralytics.")
    ] = False,
    peer: Annotated[
        list[str] | None, typer.Option(help="Your own peer, NAME=COMMAND: see docs/bench.md. Can be repeated.")
    ] = None,
    apart: Annotated[
        bool, typer.Option("--apart", help="Measure one model after another, if memory cannot hold all at once.")
    ] = False,
    compare: Annotated[Path | None, typer.Option(help="bench.json of an earlier run, to show the differences.")] = None,
    measured: Annotated[
        Path | None, typer.Option("--from", help="bench.json to show, compare or plot instead of measuring.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for bench.md, .csv, .json, .png and .svg.")
    ] = None,
) -> None:
    """Compare models: size, time of each step, memory, energy, and agreement of the masks.

    Updates the table as it measures. Missing weights are replaced by random ones of the same architecture.
    """
    from samedge.benchmarks.bench.options import COLUMNS, BenchOptions
    from samedge.benchmarks.bench.reference_page import PRESET, PRESET_COLUMNS
    from samedge.benchmarks.bench.session import run_bench
    from samedge.engines.selection import usable_cores

    shown = PRESET_COLUMNS if preset == PRESET else COLUMNS
    defaults = BenchOptions()
    options = BenchOptions(
        models=tuple(models or ()),
        columns=tuple(part.strip() for part in columns.split(",") if part.strip()) if columns else shown,
        images=tuple(image) if image else defaults.images,
        rounds=rounds,
        warm_ups=warmup,
        everything_rounds=everything_rounds,
        everything_points=everything_points,
        mode=mode,  # type: ignore[arg-type]  # validated by BenchOptions
        threads=threads or usable_cores(),
        backend=backend,
        device=device,
        peers=peers,
        peer_commands=dict(_peer(text) for text in peer or ()),
        apart=apart,
    )
    run_bench(options, preset=preset, compare=compare, measured=measured, output=output)


def _peer(text: str) -> tuple[str, tuple[str, ...]]:
    name, _, command = text.partition("=")
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(f"invalid command: {error}", where="--peer", cure="Check the quotes") from error
    if not name or not words:
        raise UsageError(
            f"invalid peer {text!r}", where="--peer", cure="Give NAME=COMMAND, such as mine='python peer.py'"
        )
    return name, words
