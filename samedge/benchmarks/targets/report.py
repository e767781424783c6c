"""The report for people and programs: a table on the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, get_args

from rich.table import Table

from samedge.benchmarks.measure.rounds import NOTHING, short, spread_text
from samedge.benchmarks.targets.results import AT_LEAST, Figure, Goal, Outcome, Report, Row
from samedge.tables import csv_records, json_text, markdown_facts, markdown_table, rich_table, write_texts

NAME: Final = "targets"
FORMATS: Final = (".md", ".csv", ".json")

_UNITS: Final = {"speed": "x", "first": "x", "second": "x", "peak_gb": " GB", "import_ms": " ms", "first_mask_s": " s"}
_WORDS: Final = {
    "speed": "speed", "memory": "RSS", "file": "file", "peak_gb": "RSS", "error": "error", "recall": "recall",
    "precision": "precision", "first": "first call", "second": "second call", "import_ms": "time",
    "first_mask_s": "time",
}  # fmt: skip


def _pair(ours: float | None, baseline: float | None) -> str:
    """Return two sizes in bytes as MB, with their ratio."""
    if ours is None:
        return NOTHING
    text = f"{short(ours / 1e6)}"
    return text if baseline is None else f"{text} / {short(baseline / 1e6)} ({short(ours / baseline)})"


def _what(row: Row) -> str:
    return f"{row.what}: {row.model}" if row.model != NOTHING else row.what


def _ratio(row: Row) -> str:
    ratio = row.own_ratio or (row.timing.ratio if row.timing else None)
    return NOTHING if ratio is None else spread_text(ratio, "x")


def _time(row: Row) -> str:
    if row.timing is None or row.baseline_timing is None:
        return NOTHING
    return f"{short(row.timing.wall.median * 1e3)} / {short(row.baseline_timing.wall.median * 1e3)}"


def _memory(row: Row) -> str:
    baseline = row.baseline_memory
    return _pair(row.memory.peak if row.memory else None, baseline.peak if baseline else None)


def _goal(goal: Goal) -> str:
    sign = "≥" if goal.figure in AT_LEAST else "≤"
    is_share = goal.figure in ("memory", "file") and goal.reach < 0.5
    shown = f"1/{short(1 / goal.reach).rstrip('0').rstrip('.')}" if is_share else f"{goal.reach:g}"
    return f"{_WORDS[goal.figure]} {sign} {shown}{_UNITS.get(goal.figure, '')}"


def _met(outcome: Outcome) -> str:
    if outcome.met is None or outcome.value is None:
        return "not measured"
    answer = "yes, and stretch" if outcome.stretch_met else "yes" if outcome.met else "no"
    value = f"{outcome.value:.1e}" if outcome.goal.figure == "error" else f"{outcome.value:.4g}"  # 1.098 is not 1.1
    return f"{answer} ({value}{_UNITS.get(outcome.goal.figure, '')})"


COLUMNS: Final[tuple[tuple[str, Callable[[Row], str]], ...]] = (
    ("what", _what),
    ("baseline", lambda row: row.baseline),
    ("ours", lambda row: f"skipped: {row.skipped}" if row.skipped else row.ours),
    ("ratio (p10–p90)", _ratio),
    ("CPU ratio", lambda row: f"{short(row.timing.cpu_ratio.median)}x" if row.timing else NOTHING),
    ("ms, ours / baseline", _time),
    ("peak RSS, MB, ours / baseline (ratio)", _memory),
    ("file, MB, ours / baseline (ratio)", lambda row: _pair(row.bytes, row.baseline_bytes)),
    ("error", lambda row: NOTHING if row.error is None else f"{row.error:.1e}"),
    ("mask IoU", lambda row: NOTHING if row.mask_iou is None else f"{row.mask_iou:.4f}"),
    ("reach", lambda row: "\n".join(_goal(outcome.goal) for outcome in row.outcomes)),
    ("met", lambda row: "\n".join(NOTHING if row.skipped else _met(outcome) for outcome in row.outcomes)),
)


_TELLING: Final = ("what", "ours", "ratio (p10–p90)", "error", "reach", "met")
_WIDE: Final = 180


def targets_table(rows: Sequence[Row], width: int) -> Table:
    """Return the rows as a terminal table; a narrow one has only the main columns."""
    columns = [column for column in COLUMNS if width >= _WIDE or column[0] in _TELLING]
    styles = []
    for row in rows:
        lost = any(outcome.met is False for outcome in row.outcomes)
        styles.append("dim" if row.skipped else "yellow" if lost else None)
    headings = [heading for heading, _ in columns]
    lines = [[cell(row) for _, cell in columns] for row in rows]
    return rich_table("targets", headings, lines, styles=styles, show_lines=True)


def markdown(report: Report) -> str:
    """Return the report as Markdown: table, notes, and conditions."""
    cells = ([cell(row) for _, cell in COLUMNS] for row in report.rows)
    text = "# Targets\n\n" + markdown_table([heading for heading, _ in COLUMNS], cells)
    noted = [row for row in report.rows if row.notes]
    if noted:
        text += "\n## Notes\n\n" + "".join(f"- {_what(row)}, {row.ours}: {'; '.join(row.notes)}.\n" for row in noted)
    return text + markdown_facts(Where=report.machine, How=report.settings)


def flat(row: Row) -> dict[str, str | float | int | None]:
    """Return a row as one number or word per column."""
    names = ("row", "what", "model", "baseline", "ours", "skipped")
    values: dict[str, str | float | int | None] = {name: getattr(row, name) for name in names}
    spreads = {
        "ratio": row.own_ratio or (row.timing.ratio if row.timing else None),
        "cpu_ratio": row.timing.cpu_ratio if row.timing else None,
        "seconds": row.timing.wall if row.timing else None,
        "cpu_seconds": row.timing.cpu if row.timing else None,
        "baseline_seconds": row.baseline_timing.wall if row.baseline_timing else None,
        "baseline_cpu_seconds": row.baseline_timing.cpu if row.baseline_timing else None,
    }
    for name, spread in spreads.items():
        for field in ("median", "low", "high", "count", "outliers"):
            values[f"{name}_{field}"] = None if spread is None else getattr(spread, field)
    for name, memory in (("memory", row.memory), ("baseline_memory", row.baseline_memory)):
        values[f"{name}_bytes_loaded"] = memory.loaded if memory else None
        values[f"{name}_bytes_peak"] = memory.peak if memory else None
    values |= {
        "bytes": row.bytes,
        "baseline_bytes": row.baseline_bytes,
        "mask_iou": row.mask_iou,
        **{figure: row.figures.get(figure) for figure in get_args(Figure)},
        "goals": len(row.outcomes),
        "goals_met": sum(outcome.met is True for outcome in row.outcomes),
    }
    return values


def csv_text(rows: Sequence[Row]) -> str:
    """Return the rows as CSV."""
    return csv_records([flat(row) for row in rows], "row")


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write the report in all formats, replacing an older one, and return the paths."""
    texts = dict(zip(FORMATS, (markdown(report), csv_text(report.rows), json_text(report)), strict=True))
    return write_texts(texts, folder, NAME)
