"""Rows are judged, and shown in every format."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from samedge.benchmarks.measure.memory import MemoryUse
from samedge.benchmarks.measure.rounds import Timing, spread_of, spread_text
from samedge.benchmarks.targets.report import COLUMNS, csv_text, markdown, targets_table, write_report
from samedge.benchmarks.targets.results import SCHEMA, Goal, Report, Row, judged, read_report
from samedge.benchmarks.targets.targets import ROWS, TARGETS, chosen_targets
from samedge.errors import BenchmarkError, StorageError, UsageError


def timing(seconds: float, baseline: float) -> Timing:
    """Three equal rounds."""
    ratio = spread_of([baseline / seconds] * 3)
    return Timing(spread_of([seconds] * 3), spread_of([seconds] * 3), ratio, ratio)


def measured_row() -> Row:
    """A row that wins in speed and loses in memory."""
    row = Row(
        row="encoder",
        model="seeded:any",
        ours="fp32 | in onnxruntime",
        what="encoder [fp32]",
        baseline="plain export",
        baseline_timing=timing(3.0, 3.0),
        timing=timing(1.5, 3.0),
        baseline_memory=MemoryUse(10**9, 4 * 10**9),
        memory=MemoryUse(10**8, 10**9),
        baseline_bytes=300_000_000,
        bytes=100_000_000,
        error=3e-6,
        mask_iou=0.9876,
        notes=("a sentence",),
    )
    goals = (
        Goal("speed", 1.7, 2.4), Goal("memory", 1 / 6), Goal("file", 1 / 2.9, 1 / 2.95), Goal("error", 1e-5),
        Goal("recall", 0.95),
    )  # fmt: skip
    return judged(row, goals)


def skipped_row() -> Row:
    """A row that could not be measured."""
    row = Row(row="import", model="–", ours="", what="import samedge", baseline="–", skipped="it is not installed")
    return judged(row, (Goal("import_ms", 100),))


def report() -> Report:
    """Both rows."""
    return Report(SCHEMA, {"processor": "a fast one"}, {"rounds": "3"}, (measured_row(), skipped_row()))


def test_goals_are_judged_in_their_own_direction() -> None:
    outcomes = {outcome.goal.figure: outcome for outcome in measured_row().outcomes}
    assert (outcomes["speed"].value, outcomes["speed"].met, outcomes["speed"].stretch_met) == (2.0, True, False)
    assert (outcomes["memory"].value, outcomes["memory"].met, outcomes["memory"].stretch_met) == (0.25, False, None)
    assert (outcomes["file"].met, outcomes["file"].stretch_met) == (True, True)
    assert outcomes["error"].met
    assert (outcomes["recall"].value, outcomes["recall"].met) == (None, None)
    assert [outcome.met for outcome in skipped_row().outcomes] == [None]


def test_markdown_has_every_cell_the_notes_and_the_machine() -> None:
    text = markdown(report())
    header, _, first, second = [line for line in text.splitlines() if line.startswith("|")]
    assert header == "| " + " | ".join(heading for heading, _ in COLUMNS) + " |"
    cells = [cell.strip() for cell in first.replace("\\|", "/").strip("|").split("|")]
    assert cells == [
        "encoder [fp32]: seeded:any", "plain export", "fp32 / in onnxruntime", "2.00x (2.00–2.00)", "2.00x",
        "1500 / 3000", "1000 / 4000 (0.250)", "100 / 300 (0.333)", "3.0e-06", "0.9876",
        "speed ≥ 1.7x<br>RSS ≤ 1/6<br>file ≤ 1/2.9<br>error ≤ 1e-05<br>recall ≥ 0.95",
        "yes (2x)<br>no (0.25)<br>yes, and stretch (0.3333)<br>yes (3.0e-06)<br>not measured",
    ]  # fmt: skip
    assert "skipped: it is not installed" in second
    for line in ("a sentence.", "- processor: a fast one", "- rounds: 3"):
        assert line in text


def test_csv_has_one_number_a_column_and_every_row_the_same_columns() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(report().rows))))
    assert [line["row"] for line in lines] == ["encoder", "import"]
    assert (lines[0]["ratio_median"], lines[0]["seconds_median"], lines[0]["memory_bytes_peak"]) == (
        "2.0", "1.5", "1000000000",
    )  # fmt: skip
    assert (lines[0]["speed"], lines[0]["memory"], lines[0]["goals"], lines[0]["goals_met"]) == (
        "2.0",
        "0.25",
        "5",
        "3",
    )
    assert lines[1]["ratio_median"] == ""
    assert lines[1]["skipped"] == "it is not installed"
    assert csv_text(()) == "row\n"


@pytest.mark.parametrize(("width", "columns"), [(240, len(COLUMNS)), (100, 6)])
def test_a_narrow_terminal_shows_what_tells_most(width: int, columns: int) -> None:
    table = targets_table(report().rows, width)
    assert len(table.columns) == columns
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    shown = console.export_text()
    assert "2.00x" in shown
    assert "[fp32]" in shown  # text, and no markup


def test_outliers_are_shown() -> None:
    assert spread_text(spread_of([1.0, 1.0, 1.0, 1.0, 1.0, 9.0]), "x") == "1.00x (1.00–5.00, 1 outlier)"
    assert spread_text(spread_of([123.4]), " ms") == "123 ms (123–123)"


def test_all_formats_are_written_and_json_comes_back(tmp_path: Path) -> None:
    paths = write_report(report(), tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["targets.md", "targets.csv", "targets.json"]
    assert read_report(paths[-1]) == report()
    shorter = Report(SCHEMA, {}, {}, ())
    write_report(shorter, tmp_path / "new" / "folder")
    assert read_report(paths[-1]) == shorter
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["targets.csv", "targets.json", "targets.md"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a benchmark report"),
        ('{"schema": 1}', "not a benchmark report"),
        ('{"schema": 9, "machine": {}, "settings": {}, "rows": []}', "schema 9"),
    ],
)
def test_files_that_are_no_reports(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "targets.json"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match=message):
        read_report(path)


def test_reports_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        read_report(tmp_path / "none.json")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        write_report(report(), tmp_path / "file")


def test_rows_are_chosen_by_name_in_the_order_of_the_table() -> None:
    assert chosen_targets(()) == TARGETS
    assert [target.name for target in chosen_targets(("import", "encoder"))] == ["encoder", "import"]
    assert len(set(ROWS)) == len(ROWS)
    with pytest.raises(UsageError, match="unknown row 'speed'"):
        chosen_targets(("encoder", "speed"))


def test_stretch_is_further_than_reach() -> None:
    for target in TARGETS:
        assert target.goals
        for goal in target.goals:
            if goal.stretch is not None:
                outcome = judged(
                    Row(row=target.name, model="", ours="", figures={goal.figure: goal.stretch}), (goal,)
                ).outcomes[0]
                assert outcome.met
                assert goal.stretch != goal.reach
