"""The comparison table of Ultralytics' page about SAM, with an explanation of its speed figure.

That page times each model without prompts. For SAM this means segment everything: 1024 clicks and the filters after
them, which says nothing about a user who clicks once. Here the same figure is shown with its parts.
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
BESIDE: Final = ("Model", "Encode (ms)", "One prompt (ms)", "Everything (ms/im)", "Clicks per image", "Parity")


def headings(report: BenchReport) -> tuple[str, ...]:
    """Return the headings of that table, with the devices used here."""
    devices = list(dict.fromkeys(row.device.upper() for row in model_rows(report.rows) if row.device)) or ["CPU"]
    return "Model", "Size (MB)", "Parameters (M)", f"Speed ({', '.join(devices)}) (ms/im)"


def page_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """Return the rows of that table."""
    return [
        (model_name(row), *_one(row.size_bytes), *_one(row.parameters), _milliseconds(row, "everything"))
        for row in model_rows(report.rows)
        if not row.skipped
    ]


def beside_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """Return the parts of the speed figure, one row per model."""
    image_count = _image_count(report)
    return [
        (
            model_name(row),
            _milliseconds(row, "encode"),
            _milliseconds(row, "prompt"),
            _milliseconds(row, "everything"),
            _clicks(row, image_count),
            row.verdict or NOTHING,
        )
        for row in model_rows(report.rows)
        if not row.skipped
    ]


def explanation(report: BenchReport) -> str:
    """Return an explanation of the speed figure."""
    image_count = _image_count(report)
    counts = [count for row in model_rows(report.rows) if row.family == "sam" and (count := _prompts(row, image_count))]
    clicks = f"here {max(counts):,.0f} clicks per image" if counts else "a grid of clicks"
    return (
        "As on that page, the speed is an everything-mode figure without prompts: SAM encodes the image once and then "
        f"decodes a whole grid, {clicks}, while YOLO and FastSAM run one network. A user who clicks once waits for "
        "encode and one prompt, which are shown as well. The size is that of the graphs that run, in 1e6 bytes; the "
        "page gives the size of the checkpoints."
    )


def _image_count(report: BenchReport) -> int:
    count = report.settings.get("pictures", "")
    return int(count) if count.isdecimal() and int(count) else 1


def _one(value: int | None) -> tuple[str]:
    return (NOTHING if value is None else f"{value / 1e6:.1f}",)


def _milliseconds(row: ModelRow, stage: Stage) -> str:
    result = row.stages.get(stage)
    return NOTHING if result is None else short(result.wall.median * 1e3)


def _prompts(row: ModelRow, image_count: int) -> float:
    result = row.stages.get("everything")
    return result.figures.get("decoder_prompts", 0.0) / image_count if result else 0.0


def _clicks(row: ModelRow, image_count: int) -> str:
    count = _prompts(row, image_count)
    return f"{count:,.0f}" if count else NOTHING


def page_markdown(report: BenchReport) -> str:
    """Return the table, its explanation and the parts of the speed figure as Markdown."""
    return (
        "\n## As on the reference page\n\n"
        + markdown_table(headings(report), page_rows(report))
        + f"\n{explanation(report)}\n\n"
        + markdown_table(BESIDE, beside_rows(report))
    )


def page_tables(report: BenchReport) -> list[Table]:
    """Return both tables as terminal tables."""
    return [
        rich_table("as on the reference page", headings(report), page_rows(report), right=range(1, 4)),
        rich_table("parts of the speed figure", BESIDE, beside_rows(report), right=range(1, len(BESIDE))),
    ]
