"""The program ``python -m samedge.benchmarks``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from samedge.benchmarks.gpu.contenders import CONTENDERS
from samedge.benchmarks.gpu.results import GpuReport, gpu_table, write_gpu_report
from samedge.benchmarks.gpu.run import GpuSettings, run_gpu
from samedge.benchmarks.measure.artefacts import Artefacts
from samedge.benchmarks.measure.facts import is_busy, measured_where, settings_text
from samedge.benchmarks.measure.rounds import WARM_UPS
from samedge.benchmarks.measure.screen import WIDTH, Screen
from samedge.benchmarks.targets.context import Bench, Settings
from samedge.benchmarks.targets.everything_rows import DEMO
from samedge.benchmarks.targets.report import targets_table, write_report
from samedge.benchmarks.targets.results import SCHEMA, Report
from samedge.benchmarks.targets.targets import ROWS, chosen_targets, measure_targets
from samedge.errors import BenchmarkError, SamedgeError, UsageError

app = typer.Typer(
    name="samedge.benchmarks",
    help="Measure samedge against the reference packages.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def benchmarks() -> None:
    """Measure samedge against the reference packages."""


@app.command()
def targets(
    rows: Annotated[list[str] | None, typer.Option(help=f"Rows to measure, of: {', '.join(ROWS)}.")] = None,
    models: Annotated[
        list[str] | None, typer.Option(help="Weights in place of each row's own: path, known name, or seeded:NAME.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds.")] = 5,
    warm_ups: Annotated[int, typer.Option(min=0, help="Warm-up rounds.")] = WARM_UPS,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of every contender; 0 for their defaults.")] = 1,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure memory in child processes.")] = True,
    masks_of: Annotated[str, typer.Option(help="Trained weights whose masks are compared.")] = DEMO,
    form: Annotated[str, typer.Option(help="Form of global attention in samedge's encoders.")] = "chunked",
    everything_points: Annotated[
        int,
        typer.Option(
            min=1, help="Points per side of the everything grid, for large models; Meta's 32 take minutes per image."
        ),
    ] = 8,
    output: Annotated[Path | None, typer.Option(help="Folder for targets.md, targets.csv and targets.json.")] = None,
) -> None:
    """Print the table of targets: samedge against the baselines, each target, and if it is met."""
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


@app.command()
def gpu(
    device: Annotated[str, typer.Option(help="cuda, cuda:1; cpu for a rehearsal without a GPU.")] = "cuda",
    model: Annotated[
        str, typer.Option(help="Weights: path, known name, or seeded:NAME; or a bundle, which needs no torch.")
    ] = "seeded:sam_vit_b",
    contenders: Annotated[list[str] | None, typer.Option(help=f"Some of: {', '.join(CONTENDERS)}.")] = None,
    prompts: Annotated[str, typer.Option(help="Numbers of single-point prompts per call.")] = "1,4,16",
    batches: Annotated[str, typer.Option(help="Numbers of images per encoder call.")] = "2,4",
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds.")] = 50,
    warm_ups: Annotated[int, typer.Option(min=0, help="Warm-up rounds.")] = 5,
    form: Annotated[str, typer.Option(help="Form of global attention in the encoder.")] = "mask",
    trial: Annotated[
        bool, typer.Option(help="First try each contender in a separate process, which may crash.")
    ] = True,
    checks_only: Annotated[
        bool, typer.Option("--checks-only", help="Check the memory layer, and measure nothing.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for gpu.md, gpu.csv and gpu.json.")] = None,
) -> None:
    """Check the memory layer on the GPU, measure samedge's backends and torch there, and compare with the CPU."""
    settings = GpuSettings(
        device=device,
        model=model,
        contenders=() if checks_only else tuple(_split(contenders)) or CONTENDERS,
        prompts=_numbers(prompts, "--prompts"),
        batches=_numbers(batches, "--batches"),
        rounds=rounds,
        warm_ups=warm_ups,
        form=form,
        trial=trial,
    )
    errors = Console(stderr=True)

    def say(sentence: str) -> None:
        errors.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def show(report: GpuReport) -> None:
        if output is not None:
            write_gpu_report(report, output)

    report = run_gpu(settings, measured_where(_command()), say=say, show=show)
    console = Console()
    if report.contenders:
        (console if console.is_terminal else Console(width=WIDTH)).print(gpu_table(report))
    for check in report.checks:
        console.print(f"{check.name}: {check.problem or 'passed'}", markup=False, highlight=False, soft_wrap=True)
    for row in report.contenders:
        for sentence in filter(None, (row.problem, *row.notes)):
            console.print(f"{row.name}: {sentence}", markup=False, highlight=False, soft_wrap=True)
    outcomes = [(check.name, check.problem) for check in report.checks]
    outcomes += [(row.name, row.problem) for row in report.contenders]
    problems = [f"{name}: {problem}" for name, problem in outcomes if problem]
    if problems:
        raise BenchmarkError("; ".join(problems), cure="See the table above, and report this with it")
    if report.contenders and all(row.skipped for row in report.contenders):
        raise BenchmarkError(
            "nothing could be measured: every contender was skipped", cure="See the reasons above, or give --contenders"
        )


def _numbers(text: str, option: str) -> tuple[int, ...]:
    parts = _split([text])
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"invalid numbers {text!r}", where=option, cure="Give numbers from 1, such as 1,4,16")
    return tuple(int(part) for part in parts)


def run_targets(settings: Settings, rows: tuple[str, ...], output: Path | None) -> Report:
    """Measure rows (none for all), show them, write the files to `output` after each, and return the report."""
    chosen_targets(rows)
    report = Report(SCHEMA, measured_where(_command()), settings_text(settings), ())
    screen = Screen(lambda width: targets_table(report.rows, width))
    if is_busy():
        screen.warn("This machine is busy: times are unreliable, ratios less so; memory and errors are unaffected")
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
    """Return the parts of ``--rows a,b`` and of ``--rows a --rows b``."""
    return [part for value in values or () for part in value.split(",") if part]


def _command() -> str:
    return " ".join(["python -m samedge.benchmarks", *sys.argv[1:]])


def main() -> None:
    """Run the program; an error of this package is one line on stderr and a non-zero status."""
    try:
        app(prog_name="python -m samedge.benchmarks")
    except SamedgeError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)
