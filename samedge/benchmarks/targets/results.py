"""What a benchmark says: one record a row, with what was measured, what was wanted, and whether it was reached."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias, TypeVar

import msgspec

from samedge.benchmarks.measure.memory import MemoryUse
from samedge.benchmarks.measure.rounds import Spread, Timing
from samedge.errors import BenchmarkError, storage_errors

SCHEMA: Final = 1

Figure: TypeAlias = Literal[
    "speed", "memory", "file", "peak_gb", "error", "recall", "precision", "first", "second", "import_ms", "first_mask_s"
]
"""What can be wanted of a row:

* ``speed``: how many times as fast as the baseline; ``memory``, ``file``: share of the baseline's peak memory and size;
* ``peak_gb``: peak memory, 1e9 bytes; ``error``: largest absolute difference from the reference;
* ``recall``, ``precision``: of the masks that are wanted;
* ``first``, ``second``: these calls, as multiples of a warm one;
* ``import_ms``: milliseconds to import the package; ``first_mask_s``: seconds from nothing to a mask, less one encode.
"""
AT_LEAST: Final[frozenset[Figure]] = frozenset(("speed", "recall", "precision"))
"""Figures of which more is better; of all others less is."""


class HasSchema(Protocol):
    """A record that says which version of its format it is in."""

    @property
    def schema(self) -> int:
        """The version."""
        ...


R = TypeVar("R", bound=HasSchema)


class Goal(msgspec.Struct, frozen=True):
    """What is wanted of a figure.

    Attributes:
        figure: Which.
        reach: What is wanted.
        stretch: What would be very good; None where nothing is said.
    """

    figure: Figure
    reach: float
    stretch: float | None = None


class Outcome(msgspec.Struct, frozen=True):
    """A goal and what became of it; `value` is None where the figure was not measured."""

    goal: Goal
    value: float | None
    met: bool | None
    stretch_met: bool | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    Attributes:
        row: Name of the row, as ``--rows`` takes it.
        model: Weights.
        ours: What is compared.
        what: What is measured.
        baseline: What it is compared with.
        skipped: Why nothing was measured; empty if it was.
        baseline_timing: Times of the baseline.
        timing: Times of ours; its ratio is that to the baseline.
        own_ratio: In place of a ratio to a baseline: a call as a multiple of an own warm one.
        baseline_memory: Memory of the baseline.
        memory: Memory of ours.
        baseline_bytes: Size of the baseline's file.
        bytes: Size of ours.
        error: Largest absolute difference from the reference.
        mask_iou: Mean IoU of masks with those of the reference.
        figures: Numbers that goals speak of, and others worth knowing.
        outcomes: Goals, and what became of them.
        notes: Sentences.
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


class Report(msgspec.Struct, frozen=True):
    """Rows, and where and how they were measured.

    Attributes:
        schema: Version of this format.
        machine: Facts by name.
        settings: Options by name.
        rows: In the order in which they were measured.
    """

    schema: int
    machine: dict[str, str]
    settings: dict[str, str]
    rows: tuple[Row, ...]


def judged(row: Row, goals: tuple[Goal, ...]) -> Row:
    """Return a row with its figures filled in from what was measured, and judged."""
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
    """Read a report that was written as JSON.

    Raises:
        BenchmarkError: It is none.
        StorageError: It cannot be read.
    """
    return read_record(path, Report, SCHEMA)


def read_record(path: Path, kind: type[R], schema: int) -> R:
    """Read a record that has a schema.

    Args:
        path: The JSON file.
        kind: Of the record.
        schema: That can be read.

    Raises:
        BenchmarkError: It is none.
        StorageError: It cannot be read.
    """
    with storage_errors(path, "read"):
        data = path.read_bytes()
    try:
        record = msgspec.json.decode(data, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BenchmarkError(f"this is no report of a benchmark: {error}", where=path) from error
    if record.schema != schema:
        raise BenchmarkError(f"the report has schema {record.schema}, and this samedge reads {schema}", where=path)
    return record
