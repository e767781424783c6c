"""The layout of the comparison on Ultralytics' page about SAM, and what its speed means.

That page times each model without prompts. For SAM that is segment everything: 1024 clicks and the filters behind them,
which says nothing about a user who clicks once. The same numbers stand here with what they are made of.
"""

from __future__ import annotations

from typing import Final

from rich.table import Table

from samedge.benchmarks.bench.cells import model_name, model_rows
from samedge.benchmarks.bench.records import BenchReport, ModelRow, Stage
from samedge.benchmarks.measure.rounds import NOTHING, short
from samedge.tables import markdown_table, rich_table

PRESET: Final = "reference-page"
PRESET_COLUMNS: Final = ("size", "params", "encode", "prompt", "everything", "backend", "parity")
BESIDE: Final = ("Model", "Encode (ms)", "One prompt (ms)", "Everything (ms/im)", "Clicks asked an image", "Parity")


def headings(report: BenchReport) -> tuple[str, ...]:
    """Return the headings of that table; its device is the one that was used here."""
    devices = list(dict.fromkeys(row.device.upper() for row in model_rows(report.rows) if row.device)) or ["CPU"]
    return "Model", "Size (MB)", "Parameters (M)", f"Speed ({', '.join(devices)}) (ms/im)"


def page_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """Return the cells of that table."""
    return [
        (model_name(row), *_one(row.size_bytes), *_one(row.parameters), _milliseconds(row, "everything"))
        for row in model_rows(report.rows)
        if not row.skipped
    ]


def beside_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """Return what the speed is made of."""
    pictures = _pictures(report)
    return [
        (
            model_name(row),
            _milliseconds(row, "encode"),
            _milliseconds(row, "prompt"),
            _milliseconds(row, "everything"),
            _clicks(row, pictures),
            row.verdict or NOTHING,
        )
        for row in model_rows(report.rows)
        if not row.skipped
    ]


def explanation(report: BenchReport) -> str:
    """Return what is to be known of that speed, as sentences."""
    pictures = _pictures(report)
    asked = [count for row in model_rows(report.rows) if row.family == "sam" and (count := _asked(row, pictures))]
    clicks = f"here {max(asked):,.0f} clicks an image" if asked else "a grid of clicks"
    return (
        "The speed is an everything-mode figure without prompts, as on that page: SAM encodes the image once and then "
        f"decodes a whole grid, {clicks}, where YOLO and FastSAM run one network. Who clicks once waits for encode and "
        "one prompt, which stand beside it. The size is that of the graphs that run, in 1e6 bytes; the page shows that "
        "of the checkpoints."
    )


def _pictures(report: BenchReport) -> int:
    told = report.settings.get("pictures", "")
    return int(told) if told.isdecimal() and int(told) else 1


def _one(value: int | None) -> tuple[str]:
    return (NOTHING if value is None else f"{value / 1e6:.1f}",)


def _milliseconds(row: ModelRow, stage: Stage) -> str:
    found = row.stages.get(stage)
    return NOTHING if found is None else short(found.wall.median * 1e3)


def _asked(row: ModelRow, pictures: int) -> float:
    found = row.stages.get("everything")
    return found.figures.get("decoder_prompts", 0.0) / pictures if found else 0.0


def _clicks(row: ModelRow, pictures: int) -> str:
    asked = _asked(row, pictures)
    return f"{asked:,.0f}" if asked else NOTHING


def page_markdown(report: BenchReport) -> str:
    """Return the table, what it means, and what stands beside it."""
    return (
        "\n## As on the reference page\n\n"
        + markdown_table(headings(report), page_rows(report))
        + f"\n{explanation(report)}\n\n"
        + markdown_table(BESIDE, beside_rows(report))
    )


def page_tables(report: BenchReport) -> list[Table]:
    """Return both tables as a terminal shows them."""
    return [
        rich_table("as on the reference page", headings(report), page_rows(report), right=range(1, 4)),
        rich_table("what the speed is made of", BESIDE, beside_rows(report), right=range(1, len(BESIDE))),
    ]
