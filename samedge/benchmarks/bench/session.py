"""One call of ``samedge bench``: measure or read, show, compare, write."""

from __future__ import annotations

import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Final

from rich.console import Console, Group, RenderableType

from samedge.benchmarks.bench.cells import model_table, peer_rows, peer_table
from samedge.benchmarks.bench.comparison import compare_reports, comparison_markdown, comparison_table
from samedge.benchmarks.bench.files import columns_of, write_bench
from samedge.benchmarks.bench.measuring import TableBench
from samedge.benchmarks.bench.options import BenchOptions
from samedge.benchmarks.bench.plot import write_plot
from samedge.benchmarks.bench.records import KIND, SCHEMA, BenchReport, ModelRow, read_bench
from samedge.benchmarks.bench.reference_page import PRESET, explanation, page_markdown, page_tables
from samedge.benchmarks.measure.artefacts import Artefacts
from samedge.benchmarks.measure.facts import is_busy, measured_where
from samedge.benchmarks.measure.power_state import before_and_after, power_state
from samedge.benchmarks.measure.screen import WIDTH, Screen
from samedge.errors import BenchmarkError, ImageError, MissingExtraError, UsageError
from samedge.storage.digest import sha256_file

PRESETS: Final = (PRESET,)
_HIDDEN: Final = ("columns", "images", "peer_commands")
_DIGITS: Final = 12


def measure_report(options: BenchOptions, screen: Screen | None = None) -> BenchReport:
    """Measure, and return the report.

    Args:
        options: How to measure.
        screen: Shows the table as it grows; None to show nothing.

    Raises:
        UsageError: There is no such model.
        ImageError: A picture cannot be read.
        BenchmarkError: Nothing could be measured.
    """
    live = _Live(options)
    return live.measure(screen)


class _Live:
    """A report that grows.

    Args:
        options: How to measure.
    """

    def __init__(self, options: BenchOptions) -> None:
        self._options = options
        self._power = power_state()
        self.report = BenchReport(KIND, SCHEMA, measured_where(_command()), self._power, shown_settings(options), ())

    def table(self, width: int) -> RenderableType:
        """The table as it is now."""
        return rows_table(self.report.rows, self._options.columns, width)

    def measure(self, screen: Screen | None) -> BenchReport:
        """Measure, and return the whole report."""

        def show(rows: tuple[ModelRow, ...]) -> None:
            self._keep(rows)
            if screen is not None:
                screen.refresh()

        say = screen.say if screen is not None else (lambda _: None)
        rows = TableBench(self._options, Artefacts(say=say), say, show).measure()
        self._power = before_and_after(self._power, power_state())
        self._keep(rows)
        return self.report

    def _keep(self, rows: tuple[ModelRow, ...]) -> None:
        told = self.report
        self.report = BenchReport(told.kind, told.schema, told.machine, self._power, told.settings, rows)


def run_bench(
    options: BenchOptions,
    *,
    preset: str | None = None,
    compare: Path | None = None,
    measured: Path | None = None,
    output: Path | None = None,
) -> BenchReport:
    """Measure, or reads what was measured, shows it, and writes it.

    Args:
        options: How to measure.
        preset: "reference-page", or None.
        compare: An older report to compare with.
        measured: A report to show in place of measuring.
        output: Folder for Markdown, CSV, JSON and the plot. What is there when the run is interrupted is written too.

    Raises:
        UsageError: There is no such preset or model.
        BenchmarkError: A report cannot be used, or nothing could be measured.
        StorageError: A report cannot be read, or the files cannot be written.
        ImageError: A picture cannot be read.
    """
    if preset not in (None, *PRESETS):
        raise UsageError(f"there is no preset {preset!r}", where="--preset", cure=f"Choose {', '.join(PRESETS)}")
    older = read_bench(compare) if compare is not None else None
    if measured is not None:
        report = read_bench(measured)
        Console().print(rows_table(report.rows, columns_of(report), Console().width))
    else:
        report = _measured(options, output)
    more = _shown(report, preset, older)
    if output is not None:
        write_bench(report, output, more)
        try:
            write_plot(report, output)
        except MissingExtraError as error:
            sys.stderr.write(f"{error}\n")
    if report.rows and all(row.skipped for row in report.rows if not row.peer_of):
        raise BenchmarkError("no model could be measured", cure="The rows say why")
    return report


def _measured(options: BenchOptions, output: Path | None) -> BenchReport:
    live = _Live(options)
    screen = Screen(live.table)
    if is_busy():
        screen.warn("This machine is busy: times say little, ratios something, sizes and memory all they should")
    try:
        with screen:
            return live.measure(screen)
    except KeyboardInterrupt:
        if output is not None and live.report.rows:
            write_bench(live.report, output)
        raise


def rows_table(rows: tuple[ModelRow, ...], columns: tuple[str, ...], width: int) -> RenderableType:
    """Return models, and below them peers, as a terminal shows them."""
    table = model_table(rows, columns, width)
    return Group(table, peer_table(rows)) if peer_rows(rows) else table


def _shown(report: BenchReport, preset: str | None, older: BenchReport | None) -> str:
    """Show preset and comparison, and return them as Markdown."""
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    text = ""
    if preset == PRESET:
        tables = page_tables(report)
        console.print(tables[0])
        console.print(explanation(report), markup=False, highlight=False)
        console.print(tables[1])
        text += page_markdown(report)
    if older is not None:
        found = compare_reports(older, report)
        for sentence in found.different:
            console.print(f"{sentence}: times are not judged", markup=False, highlight=False)
        console.print(comparison_table(found))
        for sentence in found.missing:
            console.print(sentence, markup=False, highlight=False)
        text += comparison_markdown(found)
    return text


def shown_settings(options: BenchOptions) -> dict[str, str]:
    """Return options by name, and which pictures: their names and the start of their SHA-256.

    Raises:
        ImageError: There is no such picture.
    """
    settings = {
        field.name: _text(getattr(options, field.name)) for field in fields(options) if field.name not in _HIDDEN
    }
    for image in options.images:
        if not Path(image).is_file():
            raise ImageError("there is no such picture", where=image, cure="Check the path")
    settings["columns"] = ", ".join(options.columns)
    settings["pictures"] = str(len(options.images))
    settings["images"] = ", ".join(
        f"{Path(image).name} {sha256_file(Path(image))[:_DIGITS]}" for image in options.images
    )
    commands = {name: shlex.join(command) for name, command in options.peer_commands.items()}
    settings |= {f"peer {name}": command for name, command in commands.items()}
    return settings


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
