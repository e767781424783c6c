"""What changed since an older report, with the spread of both taken into account."""

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
"""Facts that make two machines different; a report that lacks one is of an unknown machine."""
SETTINGS: Final = ("threads", "images", "mode", "everything_points")
"""Settings that make two times different."""
FEWEST: Final = 3
"""Rounds from which on a spread says something."""

_SMALLEST: Final = 0.01
_HEADINGS: Final = ("model", "what", "before", "now", "before / now", "judgement")


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one figure.

    Attributes:
        model: Name of the row.
        what: Which figure, with its unit.
        before: In the older report.
        now: In the newer one.
        judgement: What it means.
        unchecked: Parity was not checked, in one of both.
    """

    model: str
    what: str
    before: float
    now: float
    judgement: Judgement
    unchecked: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        """As a table shows it; no ratio where it may not be taken."""
        silent = self.judgement in ("other machine", "parity failed") or self.now == 0
        ratio = NOTHING if silent else f"{short(self.before / self.now)}x"
        mark = ", parity unchecked" if self.unchecked and self.judgement in ("faster", "slower") else ""
        return self.model, self.what, short(self.before), short(self.now), ratio, f"{self.judgement}{mark}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two reports.

    Attributes:
        different: How machine and settings differ, as sentences; times are not judged then.
        changes: Figures that both have.
        missing: Rows that only one has.
    """

    different: tuple[str, ...]
    changes: tuple[Change, ...]
    missing: tuple[str, ...]


def compare_reports(before: BenchReport, now: BenchReport) -> Comparison:
    """Return what changed.

    Times are judged where machine, pictures, threads, device and backend are the same; otherwise it is said how they
    differ, and both numbers are shown without a judgement.
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
                yield f"other {title}: {name} was {old.get(name, 'not known')} and is {new.get(name, 'not known')}"


def judge(before: Spread, now: Spread) -> Judgement:
    """Return whether a time changed: where eight of ten rounds of one lie must not touch where those of the other do.

    A difference of less than 1 % is noise even then: no machine keeps its clock that still.
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


def comparison_markdown(found: Comparison) -> str:
    """Return it as Markdown."""
    text = "\n## What changed\n\n"
    if found.different:
        text += (
            "**These are not the same conditions, so times are not judged.** " + "; ".join(found.different) + ".\n\n"
        )
    text += markdown_table(_HEADINGS, [change.cells for change in found.changes])
    return text + "".join(f"\n- {sentence}.\n" for sentence in found.missing)


def comparison_table(found: Comparison) -> Table:
    """Return it as a terminal shows it."""
    colours = {"faster": "green", "slower": "red", "changed": "yellow"}
    return rich_table(
        "what changed",
        _HEADINGS,
        [change.cells for change in found.changes],
        right=(2, 3, 4),
        styles=[colours.get(change.judgement) for change in found.changes],
    )
