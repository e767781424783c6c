"""The table as files: Markdown with all conditions, CSV with one number per column, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from samedge.benchmarks.bench.cells import (
    HEADINGS,
    PEER_HEADINGS,
    PEER_STAGES,
    cell,
    heading,
    model_name,
    model_rows,
    peer_cells,
    peer_rows,
    shown_columns,
)
from samedge.benchmarks.bench.options import COLUMNS, STAGE_COLUMNS
from samedge.benchmarks.bench.records import BenchReport, ModelRow
from samedge.benchmarks.measure.rounds import Spread
from samedge.tables import csv_records, json_text, markdown_facts, markdown_table, write_texts

NAME: Final = "bench"

_SPREAD: Final = (
    ("p50", "median"), ("p10", "low"), ("p90", "high"), ("p99", "p99"), ("count", "count"), ("outliers", "outliers"),
)  # fmt: skip


def columns_of(report: BenchReport) -> tuple[str, ...]:
    """Return the requested columns of a report."""
    columns = report.settings.get("columns", "")
    return tuple(columns.split(", ")) if columns else COLUMNS


def markdown(report: BenchReport) -> str:
    """Return the report as Markdown."""
    shown = shown_columns(columns_of(report))
    text = "# samedge bench\n\n" + markdown_table(
        ["model", *map(heading, shown)], ([model_name(row), *_cells(row, shown)] for row in model_rows(report.rows))
    )
    text += (
        "\nTimes are milliseconds per image. For images/s, an image is the sum of the stages listed below for its row. "
        "Memory is that of the whole process, including Python and libraries.\n"
    )
    text += _peers(report.rows) + _includes(report.rows) + _empty(report.rows, shown) + _notes(report.rows)
    return text + markdown_facts(Machine=report.machine, Clocks_and_power=report.power, Settings=report.settings)


def _cells(row: ModelRow, shown: Sequence[str]) -> list[str]:
    if row.skipped:
        return [f"skipped: {row.skipped}", *[""] * (len(shown) - 1)][: max(1, len(shown))]
    return [cell(row, column) for column in shown]


def _peers(rows: Sequence[ModelRow]) -> str:
    peers = peer_rows(rows)
    if not peers:
        return ""
    lines = []
    for row in peers:
        cells = peer_cells(row)
        lines.append([*cells, *[""] * (len(PEER_HEADINGS) - len(cells)), row.version])
    return (
        "\n## Peers\n\n"
        + markdown_table([*PEER_HEADINGS, "version"], lines)
        + "\nEach peer runs the same weights on the same images in its own process. 2x means twice samedge's time: the "
        "median of the rounds' ratios, followed by the range of the middle eight in ten. There is no ratio to a model "
        "whose parity failed; a ratio to a model whose parity was not checked is marked.\n"
    )


def _includes(rows: Sequence[ModelRow]) -> str:
    lines = []
    for row in rows:
        for stage, result in row.stages.items():
            counts = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in result.figures.items())
            lines.append(
                f"- {row.name}, {stage}: {result.includes}" + (f" ({counts} over all images)" if counts else "")
            )
        if row.image_stages:
            lines.append(f"- {row.name}, an image: {' + '.join(row.image_stages)}")
    return "\n## Contents of the times\n\n" + "\n".join(lines) + "\n" if lines else ""


def _empty(rows: Sequence[ModelRow], shown: Sequence[str]) -> str:
    lines = [
        f"- {row.name}, {HEADINGS.get(column, column)}: {why}."
        for row in rows
        for column, why in row.empty.items()
        if column in shown or column == "ratio"
    ]
    return "\n## Empty cells\n\n" + "\n".join(lines) + "\n" if lines else ""


def _notes(rows: Sequence[ModelRow]) -> str:
    lines = [f"- {row.name}: {'; '.join(row.notes)}." for row in rows if row.notes]
    return "\n## Notes\n\n" + "\n".join(lines) + "\n" if lines else ""


def flat(row: ModelRow) -> dict[str, str | float | int | None]:
    """Return a row as one number or word per column, in bytes, seconds and 1e9 operations."""
    values: dict[str, str | float | int | None] = {
        **_fields(row, "name", "source", "family"),
        "seeded": int(row.seeded),
        **_fields(row, "skipped", "peer_of", "version"),
        "bytes": row.size_bytes,
        **_fields(row, "parameters", "gflops", "prompt_gflops"),
    }
    for stage in STAGE_COLUMNS:
        result = row.stages.get(stage)
        values |= _flat_spread(f"{stage}_seconds", result.wall if result else None)
        values[f"{stage}_cpu_seconds"] = result.cpu.median if result and result.cpu else None
    values |= _flat_spread("images_per_second", row.images_per_second)
    for name in PEER_STAGES:
        ratio = row.ratios.get(name)
        values[f"{name}_ratio"] = ratio.median if ratio else None
    agreement, energy = row.mask_agreement, row.energy
    return {
        **values,
        "peak_bytes": row.peak_bytes,
        "device_bytes": row.device_memory,
        "joules_per_image": energy.joules if energy else None,
        "watts": energy.watts if energy else None,
        "mask_iou_mean": agreement.mean if agreement else None,
        "mask_iou_worst": agreement.worst if agreement else None,
        **_fields(row, "backend", "device", "precision"),
        "parity": row.verdict,
    }


def _fields(row: ModelRow, *names: str) -> dict[str, str | float | int | None]:
    return {name: getattr(row, name) for name in names}


def _flat_spread(name: str, spread: Spread | None) -> dict[str, str | float | int | None]:
    return {f"{name}_{short}": None if spread is None else getattr(spread, field) for short, field in _SPREAD}


def csv_text(rows: Sequence[ModelRow]) -> str:
    """Return the rows as CSV."""
    return csv_records([flat(row) for row in rows], "name")


def write_bench(report: BenchReport, folder: Path, more: str = "") -> list[Path]:
    """Write ``bench.md``, which ends in `more`, ``bench.csv`` and ``bench.json``, and return the paths."""
    texts = {".md": markdown(report) + more, ".csv": csv_text(report.rows), ".json": json_text(report)}
    return write_texts(texts, folder, NAME)
