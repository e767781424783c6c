"""Report of the GPU benchmark: checks, and for each contender latencies by step, memory, and agreement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.table import Table

from samedge.benchmarks.measure.rounds import NOTHING, Spread, spread_of
from samedge.benchmarks.targets.results import Record, read_record
from samedge.tables import csv_text, json_text, markdown_facts, markdown_table, rich_table, write_texts

SCHEMA: Final = 1
NAME: Final = "gpu"
FORMATS: Final = (".md", ".csv", ".json")


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds per call.

    Attributes:
        p99: Interpolated between the slowest two of fewer than 100 calls.
        per_second: Images or prompts per second at p50.
        ratio: Time of the baseline divided by that of this contender, per round: 2 is twice as fast; None if the
            baseline lacks the step.
    """

    p50: float
    p90: float
    p99: float
    count: int
    per_second: float
    ratio: Spread | None = None


def latency_of(seconds: Sequence[float], items: int, baseline: Sequence[float] | None) -> Latency:
    """Return the latency of calls, each of several images or prompts; the baseline's calls are of the same rounds."""
    p50, p90, p99 = (float(value) for value in np.percentile(np.asarray(seconds, np.float64) * 1e3, (50, 90, 99)))
    ratio = None if baseline is None else spread_of([b / max(s, 1e-9) for b, s in zip(baseline, seconds, strict=True)])
    return Latency(p50, p90, p99, len(seconds), items * 1e3 / max(p50, 1e-6), ratio)


class CheckResult(msgspec.Struct, frozen=True):
    """One check of the memory layer; `problem` is empty if it passed."""

    name: str
    problem: str = ""


class ContenderResult(msgspec.Struct, frozen=True, kw_only=True):
    """Results of one contender.

    Attributes:
        name: For example "samedge, onnxruntime".
        skipped: Reason why nothing was measured; empty if something was.
        open_s: Seconds to open it, without building engines.
        peak_bytes: GPU memory used by opening it and one call of each step; None if unknown.
        embedding_error: Largest absolute difference of an embedding from the CPU's.
        mask_iou_mean: Mean IoU of masks with the CPU's.
        notes: Sentences, such as the reason for a missing step.
        problem: Description of a failure, such as masks that differ from the CPU's; empty if none is known.
    """

    name: str
    skipped: str = ""
    details: dict[str, str] = {}
    open_s: float | None = None
    peak_bytes: int | None = None
    embedding_error: float | None = None
    mask_iou_mean: float | None = None
    mask_iou_worst: float | None = None
    steps: dict[str, Latency] = {}
    notes: tuple[str, ...] = ()
    problem: str = ""


class GpuReport(Record, frozen=True):
    """Checks and contenders, and the conditions of the measurement."""

    machine: dict[str, str]
    settings: dict[str, str]
    baseline: str
    steps: tuple[str, ...]
    checks: tuple[CheckResult, ...]
    contenders: tuple[ContenderResult, ...]


def read_gpu_report(path: Path) -> GpuReport:
    """Read a JSON report.

    Raises:
        BenchmarkError: The file is not a report.
        StorageError: The file cannot be read.
    """
    return read_record(path, GpuReport, SCHEMA)


def columns(report: GpuReport) -> tuple[str, ...]:
    """Return the headings of the table."""
    return ("contender", *report.steps, "peak MB", "embedding error", "mask IoU (worst)")


def cells(report: GpuReport, row: ContenderResult) -> tuple[str, ...]:
    """Return the cells of a contender."""
    if row.skipped:
        return (row.name, f"skipped: {row.skipped}", *(NOTHING for _ in columns(report)[2:]))
    steps = [_step(row.steps.get(step)) for step in report.steps]
    peak = NOTHING if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
    error = NOTHING if row.embedding_error is None else f"{row.embedding_error:.1e}"
    iou = NOTHING if row.mask_iou_mean is None else f"{row.mask_iou_mean:.4f} ({row.mask_iou_worst:.4f})"
    return (row.name, *steps, peak, error, iou)


def _step(latency: Latency | None) -> str:
    if latency is None:
        return NOTHING
    ratio = "" if latency.ratio is None else f", {latency.ratio.median:.2f}x"
    return f"{latency.p50:.2f} / {latency.p90:.2f} / {latency.p99:.2f} ({latency.per_second:.1f}/s{ratio})"


def gpu_table(report: GpuReport) -> Table:
    """Return the report as a terminal table."""
    rows = report.contenders
    return rich_table(
        _title(report),
        columns(report),
        [cells(report, row) for row in rows],
        styles=["dim" if row.skipped else None for row in rows],
        show_lines=True,
    )


def _title(report: GpuReport) -> str:
    return f"milliseconds p50 / p90 / p99 (images or prompts per second, speed-up over {report.baseline})"


def markdown(report: GpuReport) -> str:
    """Return the report as Markdown: checks, table, notes, and conditions."""
    text = "# GPU benchmark\n\n## Checks\n\n"
    text += "".join(f"- {check.name}: {check.problem or 'passed'}\n" for check in report.checks)
    text += f"\n## Latency\n\n{_title(report)[0].upper()}{_title(report)[1:]}.\n\n"
    text += markdown_table(columns(report), [cells(report, row) for row in report.contenders])
    for row in report.contenders:
        if row.details or row.notes or row.problem:
            remarks = [f"**{row.problem}**"] if row.problem else []
            remarks += [f"{name} {value}" for name, value in row.details.items()]
            text += f"\n- {row.name}: {'; '.join((*remarks, *row.notes))}"
    return f"{text}\n{markdown_facts(Machine=report.machine, Settings=report.settings)}"


def gpu_csv(report: GpuReport) -> str:
    """Return CSV with one line per contender and step, and one number per column."""
    heads = (
        "contender", "skipped", "step", "p50_ms", "p90_ms", "p99_ms", "count", "per_second", "ratio", "ratio_p10",
        "ratio_p90", "peak_bytes", "embedding_error", "mask_iou_mean", "mask_iou_worst", "problem",
    )  # fmt: skip
    lines: list[tuple[object, ...]] = []
    for row in report.contenders:
        about = (row.peak_bytes, row.embedding_error, row.mask_iou_mean, row.mask_iou_worst, row.problem)
        if row.skipped:
            lines.append((row.name, row.skipped, *(None,) * 14))
        for step, value in row.steps.items():
            ratio = (None,) * 3 if value.ratio is None else (value.ratio.median, value.ratio.low, value.ratio.high)
            numbers = (value.p50, value.p90, value.p99, value.count, value.per_second)
            lines.append((row.name, "", step, *numbers, *ratio, *about))
    return csv_text(heads, lines)


def write_gpu_report(report: GpuReport, folder: Path) -> list[Path]:
    """Write the report in all formats, replacing an older one, and return the paths."""
    texts = dict(zip(FORMATS, (markdown(report), gpu_csv(report), json_text(report)), strict=True))
    return write_texts(texts, folder, NAME)
