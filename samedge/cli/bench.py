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
            help="Bundles, graphs, checkpoints or names; SAM-b, MobileSAM, FastSAM-s, YOLOv8n-seg and sam_demo if none."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count; in each, every model does every step.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Rounds before them that do not.")] = 2,
    everything_rounds: Annotated[
        int, typer.Option(min=1, help="Rounds of segment everything on SAM, which takes a thousand clicks an image.")
    ] = 3,
    everything_points: Annotated[int, typer.Option(min=1, help="Points along each side of its grid.")] = 32,
    mode: Annotated[str, typer.Option(help="How everything is segmented: exact (Meta's masks) or fast.")] = "exact",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of all; 0 for all physical cores.")] = 0,
    backend: Annotated[str, typer.Option(help="auto, or the name of one: see samedge info --backends.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="Picture, may be given several times; two bundled ones if left out.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="What to measure and show, such as size,encode,prompt,rss; all if left out.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="reference-page: the table of Ultralytics' page about SAM, and what it means.")
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also Meta's torch code, a plain ONNX export and Ultralytics, as installed.")
    ] = False,
    peer: Annotated[
        list[str] | None, typer.Option(help="A peer of your own, NAME=COMMAND: docs/bench.md has the protocol.")
    ] = None,
    apart: Annotated[
        bool, typer.Option("--apart", help="One model after the other, where memory does not hold all at once.")
    ] = False,
    compare: Annotated[Path | None, typer.Option(help="bench.json of an earlier run: show what changed.")] = None,
    measured: Annotated[
        Path | None, typer.Option("--from", help="bench.json to show, compare or draw in place of measuring.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for bench.md, .csv, .json, .png and .svg.")
    ] = None,
) -> None:
    """Measure models beside each other: size, speed of each step, memory, energy, and whether the masks are right.

    Shows the table while it grows. Random weights of the same architecture stand in for those that are not here.
    """
    from samedge.benchmarks.bench.options import COLUMNS, BenchOptions
    from samedge.benchmarks.bench.reference_page import PRESET, PRESET_COLUMNS
    from samedge.benchmarks.bench.session import run_bench
    from samedge.engines.selection.machine import usable_cores

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
        mode=mode,  # type: ignore[arg-type]  # checked there
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
        raise UsageError(f"this command cannot be read: {error}", where="--peer", cure="Check the quotes") from error
    if not name or not words:
        raise UsageError(
            f"{text!r} names no peer", where="--peer", cure="Give NAME=COMMAND, such as mine='python it.py'"
        )
    return name, words
