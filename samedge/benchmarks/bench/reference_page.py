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
_PARTS: Final[tuple[Stage, ...]] = ("encode", "prompt", "everything")
BESIDE: Final = ("Model", "Encode (ms)", "One prompt (ms)", "Everything (ms/im)", "Clicks per image", "Parity")


def headings(report: BenchReport) -> tuple[str, ...]:
    """Return the headings of that table, with the devices used here."""
    devices = list(dict.fromkeys(row.device.upper() for row in model_rows(report.rows) if row.device)) or ["CPU"]
    return "Model", "Size (MB)", "Parameters (M)", f"Speed ({', '.join(devices)}) (ms/im)"


def page_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """Return the rows of that table."""
    return [
        (model_name(row), _millions(row.size_bytes), _millions(row.parameters), _milliseconds(row, "everything"))
        for row in _measured_rows(report)
    ]


def beside_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """Return the parts of the speed figure, one row per model."""
    return [
        (
            model_name(row),
            *(_milliseconds(row, stage) for stage in _PARTS),
            f"{count:,.0f}" if (count := _clicks(row, report)) else NOTHING,
            row.verdict or NOTHING,
        )
        for row in _measured_rows(report)
    ]


def explanation(report: BenchReport) -> str:
    """Return an explanation of the speed figure."""
    count = max((_clicks(row, report) for row in model_rows(report.rows)), default=0.0)
    clicks = f"here {count:,.0f} clicks per image" if count else "a grid of clicks"
    return (
        "As on that page, the speed is an everything-mode figure without prompts: SAM encodes the image once and then "
        f"decodes a whole grid, {clicks}, while YOLO and FastSAM run one network. A user who clicks once waits for "
        "encode and one prompt, which are shown as well. The size is that of the graphs that run, in 1e6 bytes; the "
        "page gives the size of the checkpoints."
    )


def _measured_rows(report: BenchReport) -> list[ModelRow]:
    return [row for row in model_rows(report.rows) if not row.skipped]


def _millions(value: int | None) -> str:
    return NOTHING if value is None else f"{value / 1e6:.1f}"


def _milliseconds(row: ModelRow, stage: Stage) -> str:
    result = row.stages.get(stage)
    return NOTHING if result is None else short(result.wall.median * 1e3)


def _clicks(row: ModelRow, report: BenchReport) -> float:
    """Return the clicks per image of segment everything; 0 if unknown."""
    images, result = report.settings.get("pictures", ""), row.stages.get("everything")
    prompts = result.figures.get("decoder_prompts", 0.0) if result else 0.0
    return prompts / (int(images) if images.isdecimal() and int(images) else 1)


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
