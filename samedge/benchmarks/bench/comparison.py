"""Comparison with an older report that takes the spread of both into account."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from rich.table import Table

from samedge.benchmarks.bench.options import STAGE_COLUMNS
from samedge.benchmarks.bench.records import BenchReport, ModelRow
from samedge.benchmarks.measure.rounds import NOTHING, Spread, short
from samedge.tables import markdown_table, rich_table

Judgement: TypeAlias = Literal[
    "faster", "slower", "within noise", "too few rounds", "other machine", "parity failed", "same", "changed"
]

MACHINE: Final = ("processor", "board", "cores", "architecture", "system", "memory")
"""Facts that distinguish machines; a report that lacks one comes from an unknown machine."""
SETTINGS: Final = ("threads", "images", "mode", "everything_points")
"""Settings that times depend on."""
FEWEST: Final = 3
"""Minimum number of rounds for a meaningful spread."""

_SMALLEST: Final = 0.01
_HEADINGS: Final = ("model", "figure", "before", "now", "before / now", "judgement")


@dataclass(frozen=True, slots=True)
class Change:
    """Change of one figure, named with its unit; `unchecked` if parity was not checked in one of the reports."""

    model: str
    what: str
    before: float
    now: float
    judgement: Judgement
    unchecked: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of a table, without a ratio where none is valid."""
        silent = self.judgement in ("other machine", "parity failed") or self.now == 0
        ratio = NOTHING if silent else f"{short(self.before / self.now)}x"
        mark = ", parity unchecked" if self.unchecked and self.judgement in ("faster", "slower") else ""
        return self.model, self.what, short(self.before), short(self.now), ratio, f"{self.judgement}{mark}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of two reports.

    Attributes:
        different: Differences in machine and settings, as sentences; if there are any, times are not judged.
        changes: Figures in both reports.
        missing: Sentences about rows in only one report.
    """

    different: tuple[str, ...]
    changes: tuple[Change, ...]
    missing: tuple[str, ...]


def compare_reports(before: BenchReport, now: BenchReport) -> Comparison:
    """Compare two reports.

    Times are judged only if machine, images, threads, device and backend are the same; otherwise the differences are
    listed, and both numbers are shown without a judgement.
    """
    different = tuple(_differences(before, now))
    old, new = ({row.name: row for row in report.rows if not row.skipped} for report in (before, now))
    changes = [change for name in new if name in old for change in _changes(old[name], new[name], bool(different))]
    missing = (
        *(f"{name} is in the older report only" for name in old if name not in new),
        *(f"{name} is in the newer report only" for name in new if name not in old),
    )
    return Comparison(different, tuple(changes), missing)


def _differences(before: BenchReport, now: BenchReport) -> Iterator[str]:
    for title, names, old, new in (
        ("machine", MACHINE, before.machine, now.machine),
        ("settings", SETTINGS, before.settings, now.settings),
    ):
        for name in names:
            if old.get(name) != new.get(name):
                yield f"different {title}: {name} was {old.get(name, 'unknown')} and is {new.get(name, 'unknown')}"


def judge(before: Spread, now: Spread) -> Judgement:
    """Judge a change of time: significant only if the ranges of the middle eight in ten rounds do not overlap.

    A difference below 1 % is noise even then: no machine keeps its clock that steady.
    """
    if min(before.count, now.count) < FEWEST:
        return "too few rounds"
    if abs(now.median - before.median) < _SMALLEST * before.median:
        return "within noise"
    if now.high < before.low:
        return "faster"
    if now.low > before.high:
        return "slower"
    return "within noise"


def _changes(old: ModelRow, new: ModelRow, different: bool) -> Iterator[Change]:
    other = different or (old.backend, old.device) != (new.backend, new.device)
    for stage in STAGE_COLUMNS:
        if stage in old.stages and stage in new.stages:
            before, now = old.stages[stage].wall, new.stages[stage].wall
            judgement: Judgement = judge(before, now)
            if "failed" in (old.verdict, new.verdict):
                judgement = "parity failed"
            elif other:
                judgement = "other machine"
            unchecked = "unchecked" in (old.verdict, new.verdict)
            yield Change(new.name, f"{stage}, ms", before.median * 1e3, now.median * 1e3, judgement, unchecked)
    sizes = (
        ("size, MB", old.size_bytes, new.size_bytes, 1e6),
        ("parameters, M", old.parameters, new.parameters, 1e6),
        ("peak RSS, MB", old.peak_bytes, new.peak_bytes, 1e6),
    )
    for what, first, second, unit in sizes:
        if first is not None and second is not None:
            same = abs(first - second) <= (_SMALLEST * first if what.startswith("peak") else 0)
            yield Change(new.name, what, first / unit, second / unit, "same" if same else "changed")
    if old.mask_agreement is not None and new.mask_agreement is not None:
        worst = old.mask_agreement.worst, new.mask_agreement.worst
        yield Change(new.name, "mask IoU, worst", *worst, "same" if abs(worst[0] - worst[1]) < 1e-4 else "changed")


def comparison_markdown(comparison: Comparison) -> str:
    """Return a comparison as Markdown."""
    text = "\n## Changes\n\n"
    if comparison.different:
        text += f"**The conditions differ, so times are not judged.** {'; '.join(comparison.different)}.\n\n"
    text += markdown_table(_HEADINGS, [change.cells for change in comparison.changes])
    return text + "".join(f"\n- {sentence}.\n" for sentence in comparison.missing)


def comparison_table(comparison: Comparison) -> Table:
    """Return a comparison as a terminal table."""
    colours = {"faster": "green", "slower": "red", "changed": "yellow"}
    return rich_table(
        "changes",
        _HEADINGS,
        [change.cells for change in comparison.changes],
        right=(2, 3, 4),
        styles=[colours.get(change.judgement) for change in comparison.changes],
    )
