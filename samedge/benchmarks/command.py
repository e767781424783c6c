"""The program ``python -m samedge.benchmarks``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from samedge.benchmarks.artefacts import Artefacts
from samedge.benchmarks.bench import Bench, Settings
from samedge.benchmarks.everything_rows import DEMO
from samedge.benchmarks.facts import is_busy, measured_where
from samedge.benchmarks.measure import WARM_UPS
from samedge.benchmarks.report import rich_table, write_report
from samedge.benchmarks.results import SCHEMA, Report
from samedge.benchmarks.screen import Screen
from samedge.benchmarks.targets import ROWS, chosen_targets, measure_targets
from samedge.errors import SamedgeError, UsageError

app = typer.Typer(
    name="samedge.benchmarks",
    help="Measures samedge against the reference packages.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def benchmarks() -> None:
    """Measures samedge against the reference packages."""


@app.command()
def targets(
    rows: Annotated[list[str] | None, typer.Option(help=f"Rows to measure, of: {', '.join(ROWS)}.")] = None,
    models: Annotated[
        list[str] | None, typer.Option(help="Weights in place of each row's own: path, known name, or seeded:NAME.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
    warm_ups: Annotated[int, typer.Option(min=0, help="Rounds before them that do not.")] = WARM_UPS,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of all contenders; 0 for their defaults.")] = 1,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure memory in child processes.")] = True,
    masks_of: Annotated[str, typer.Option(help="Trained weights whose masks are compared.")] = DEMO,
    form: Annotated[str, typer.Option(help="How global attention is laid out in our encoders.")] = "chunked",
    everything_points: Annotated[
        int,
        typer.Option(
            min=1, help="Grid of segment everything, each way, for large models: Meta's asks 32, in minutes an image."
        ),
    ] = 8,
    output: Annotated[Path | None, typer.Option(help="Folder for targets.md, targets.csv and targets.json.")] = None,
) -> None:
    """Prints the table of targets: ours against the baselines, what is wanted, and whether it is reached."""
    settings = Settings(
        rounds=rounds,
        warm_ups=warm_ups,
        threads=threads or None,
        memory=memory,
        masks_of=masks_of,
        form=form,
        everything_points=everything_points,
        models=tuple(_split(models)),
    )
    run_targets(settings, tuple(_split(rows)), output)


def run_targets(settings: Settings, rows: tuple[str, ...], output: Path | None) -> Report:
    """Measures rows, shows them as they come, and writes them; returns the report.

    Args:
        settings: How to measure.
        rows: Names; none for all.
        output: Folder for the files; None for none. They are written after each row, so that nothing is lost.

    Raises:
        UsageError: There is no such row.
        SamedgeError: A row failed in a way that concerns all of them.
    """
    chosen_targets(rows)
    report = Report(SCHEMA, measured_where(_command()), _shown(settings), ())
    screen = Screen(lambda width: rich_table(report.rows, width))
    if is_busy():
        screen.warn("This machine is busy: times say little, ratios something, memory and errors all they should")
    with screen:
        bench = Bench(settings, Artefacts(say=screen.say), screen.say)
        for row in measure_targets(bench, rows):
            rows_so_far = sorted((*report.rows, row), key=lambda row: ROWS.index(row.row))
            report = msgspec.structs.replace(report, rows=tuple(rows_so_far))
            screen.refresh()
            if output is not None:
                write_report(report, output)
    return report


def _split(values: list[str] | None) -> list[str]:
    """Takes ``--rows a,b`` and ``--rows a --rows b`` alike."""
    return [part for value in values or () for part in value.split(",") if part]


def _command() -> str:
    return " ".join(["python -m samedge.benchmarks", *sys.argv[1:]])


def _shown(settings: Settings) -> dict[str, str]:
    fields = msgspec.to_builtins(settings)
    return {
        name: ", ".join(value) if isinstance(value, (list, tuple)) else str(value) for name, value in fields.items()
    }


def main() -> None:
    """Runs the program: errors of this package are one line on stderr and a status that is not 0."""
    try:
        app(prog_name="python -m samedge.benchmarks")
    except SamedgeError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)
