"""One call of ``samedge bench``: measure or read, show, compare, write."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec.structs import replace
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
from samedge.benchmarks.measure.facts import is_busy, measured_where, settings_text
from samedge.benchmarks.measure.power_state import before_and_after, power_state
from samedge.benchmarks.measure.screen import WIDTH, Screen
from samedge.errors import BenchmarkError, ImageError, MissingExtraError, UsageError
from samedge.storage.files import sha256_file

PRESETS: Final = (PRESET,)
_DIGITS: Final = 12


def measure_report(options: BenchOptions) -> BenchReport:
    """Measure without showing anything, and return the report.

    Raises:
        UsageError: A model is unknown.
        ImageError: An image cannot be read.
    """
    return _LiveReport(options).measure()


class _LiveReport:
    """A report that grows during the measurement."""

    def __init__(self, options: BenchOptions) -> None:
        self._options = options
        power = power_state()
        self.report = BenchReport(KIND, SCHEMA, measured_where(_command()), power, shown_settings(options), ())

    def table(self, width: int) -> RenderableType:
        """Return the current table."""
        return rows_table(self.report.rows, self._options.columns, width)

    def measure(
        self, say: Callable[[str], None] = lambda _: None, refresh: Callable[[], None] = lambda: None
    ) -> BenchReport:
        """Measure, and return the complete report; `refresh` is called whenever it has grown."""

        def show(rows: tuple[ModelRow, ...]) -> None:
            self.report = replace(self.report, rows=rows)
            refresh()

        TableBench(self._options, Artefacts(say=say), say, show).measure()
        self.report = replace(self.report, power=before_and_after(self.report.power, power_state()))
        return self.report


def run_bench(
    options: BenchOptions,
    *,
    preset: str | None = None,
    compare: Path | None = None,
    measured: Path | None = None,
    output: Path | None = None,
) -> BenchReport:
    """Measure or read a report, show it, and write it.

    Args:
        options: Options of the measurement.
        preset: "reference-page", or None.
        compare: An older report to compare with.
        measured: A report to show instead of measuring.
        output: Folder for Markdown, CSV, JSON and the plot; an interrupted run writes its partial report there too.

    Raises:
        UsageError: The preset or a model is unknown.
        BenchmarkError: A report is invalid, or nothing could be measured.
        StorageError: A report cannot be read, or a file cannot be written.
        ImageError: An image cannot be read.
    """
    if preset not in (None, *PRESETS):
        raise UsageError(f"unknown preset {preset!r}", where="--preset", cure=f"Choose {', '.join(PRESETS)}")
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
        raise BenchmarkError("no model could be measured", cure="See the reasons in the rows above")
    return report


def _measured(options: BenchOptions, output: Path | None) -> BenchReport:
    live = _LiveReport(options)
    screen = Screen(live.table)
    if is_busy():
        screen.warn("This machine is busy: times are unreliable, ratios less so; sizes and memory are unaffected")
    try:
        with screen:
            return live.measure(screen.say, screen.refresh)
    except KeyboardInterrupt:
        if output is not None and live.report.rows:
            write_bench(live.report, output)
        raise


def rows_table(rows: tuple[ModelRow, ...], columns: tuple[str, ...], width: int) -> RenderableType:
    """Return the models, and below them the peers, as terminal tables."""
    table = model_table(rows, columns, width)
    return Group(table, peer_table(rows)) if peer_rows(rows) else table


def _shown(report: BenchReport, preset: str | None, older: BenchReport | None) -> str:
    """Show the preset and the comparison, and return them as Markdown."""
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    text = ""
    if preset == PRESET:
        tables = page_tables(report)
        console.print(tables[0])
        console.print(explanation(report), markup=False, highlight=False)
        console.print(tables[1])
        text += page_markdown(report)
    if older is not None:
        comparison = compare_reports(older, report)
        for sentence in comparison.different:
            console.print(f"{sentence}: times are not judged", markup=False, highlight=False)
        console.print(comparison_table(comparison))
        for sentence in comparison.missing:
            console.print(sentence, markup=False, highlight=False)
        text += comparison_markdown(comparison)
    return text


def shown_settings(options: BenchOptions) -> dict[str, str]:
    """Return the options by name, with the images' names and the start of their SHA-256.

    Raises:
        ImageError: An image does not exist.
    """
    for image in options.images:
        if not Path(image).is_file():
            raise ImageError("there is no such image", where=image, cure="Check the path")
    settings = settings_text(options)
    del settings["peer_commands"]
    settings["pictures"] = str(len(options.images))
    settings["images"] = ", ".join(
        f"{Path(image).name} {sha256_file(Path(image))[:_DIGITS]}" for image in options.images
    )
    return settings | {f"peer {name}": shlex.join(command) for name, command in options.peer_commands.items()}


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
