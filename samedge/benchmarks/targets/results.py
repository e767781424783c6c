"""Report of the targets: one record per row, with its figures, its goals, and their outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec

from samedge.benchmarks.measure.memory import MemoryUse
from samedge.benchmarks.measure.rounds import Spread, Timing
from samedge.errors import BenchmarkError
from samedge.storage.files import storage_errors

SCHEMA: Final = 1
_CURE: Final = "Give a JSON report that this version of python -m samedge.benchmarks wrote"

Figure: TypeAlias = Literal[
    "speed", "memory", "file", "peak_gb", "error", "recall", "precision", "first", "second", "import_ms", "first_mask_s"
]
"""Figures that goals refer to:

* ``speed``: speed-up over the baseline; ``memory``, ``file``: fraction of the baseline's peak memory and file size;
* ``peak_gb``: peak memory, 1e9 bytes; ``error``: largest absolute difference from the reference;
* ``recall``, ``precision``: of the reference masks;
* ``first``, ``second``: time of these calls as a multiple of a warm one;
* ``import_ms``: milliseconds to import the package; ``first_mask_s``: seconds from start to a mask, less one encode.
"""
AT_LEAST: Final[frozenset[Figure]] = frozenset(("speed", "recall", "precision"))
"""Figures where more is better; for all others, less is."""


class Record(msgspec.Struct, frozen=True):
    """A report; `schema` is the version of its format."""

    schema: int


R = TypeVar("R", bound=Record)


class Goal(msgspec.Struct, frozen=True):
    """The target of a figure, and a stretch target, if there is one."""

    figure: Figure
    reach: float
    stretch: float | None = None


class Outcome(msgspec.Struct, frozen=True):
    """A goal with its outcome; `value` is None if the figure was not measured."""

    goal: Goal
    value: float | None
    met: bool | None
    stretch_met: bool | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    Attributes:
        row: Name of the row, as given to ``--rows``.
        model: The weights.
        ours: The variant of samedge.
        what: Description of the measured work.
        skipped: Reason why nothing was measured; empty if something was.
        timing: Times of samedge, with their ratio to the baseline.
        own_ratio: Instead of a ratio to a baseline: a call as a multiple of samedge's own warm call.
        bytes: Size of samedge's file.
        error: Largest absolute difference from the reference.
        mask_iou: Mean IoU with the reference masks.
        figures: Figures of the goals, and further ones.
    """

    row: str
    model: str
    ours: str
    what: str = ""
    baseline: str = ""
    skipped: str = ""
    baseline_timing: Timing | None = None
    timing: Timing | None = None
    own_ratio: Spread | None = None
    baseline_memory: MemoryUse | None = None
    memory: MemoryUse | None = None
    baseline_bytes: int | None = None
    bytes: int | None = None
    error: float | None = None
    mask_iou: float | None = None
    figures: dict[str, float] = {}
    outcomes: tuple[Outcome, ...] = ()
    notes: tuple[str, ...] = ()


class Report(Record, frozen=True):
    """Rows in the order of measurement, and the conditions."""

    machine: dict[str, str]
    settings: dict[str, str]
    rows: tuple[Row, ...]


def judged(row: Row, goals: tuple[Goal, ...]) -> Row:
    """Return a row with its figures filled in and its goals judged."""
    figures = {**_figures(row), **row.figures}
    outcomes = tuple(_outcome(goal, figures.get(goal.figure)) for goal in goals)
    return msgspec.structs.replace(row, figures=figures, outcomes=outcomes)


def _figures(row: Row) -> dict[str, float]:
    figures: dict[str, float] = {}
    if row.timing is not None:
        figures["speed"] = row.timing.ratio.median
    if row.memory is not None:
        figures["peak_gb"] = row.memory.peak / 1e9
        if row.baseline_memory is not None:
            figures["memory"] = row.memory.peak / row.baseline_memory.peak
    if row.bytes is not None and row.baseline_bytes is not None:
        figures["file"] = row.bytes / row.baseline_bytes
    if row.error is not None:
        figures["error"] = row.error
    return figures


def _outcome(goal: Goal, value: float | None) -> Outcome:
    def reached(limit: float | None) -> bool | None:
        if value is None or limit is None:
            return None
        return value >= limit if goal.figure in AT_LEAST else value <= limit

    return Outcome(goal, value, reached(goal.reach), reached(goal.stretch))


def read_report(path: Path) -> Report:
    """Read a JSON report.

    Raises:
        BenchmarkError: The file is not a report.
        StorageError: The file cannot be read.
    """
    return read_record(path, Report, SCHEMA)


def read_record(path: Path, kind: type[R], schema: int) -> R:
    """Read a JSON record of a known schema."""
    with storage_errors(path, "read"):
        data = path.read_bytes()
    try:
        record = msgspec.json.decode(data, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BenchmarkError(f"not a benchmark report: {error}", where=path, cure=_CURE) from error
    if record.schema != schema:
        raise BenchmarkError(
            f"the report has schema {record.schema}, and this samedge reads {schema}", where=path, cure=_CURE
        )
    return record
