"""Tables of ``samedge profile``."""

from __future__ import annotations

from typing import Final

import msgspec

from samedge.benchmarks.profile.profile import KindRow, LayerRow, Profile
from samedge.tables import PlainTable

_LONGEST_NAME: Final = 48


def profile_tables(profile: Profile, top: int) -> list[PlainTable]:
    """Return a summary, the kinds of work, and the slowest `top` layers."""
    return [_summary(profile), kinds_table(profile.kinds), layers_table(profile.top(top), len(profile.layers))]


def _summary(profile: Profile) -> PlainTable:
    rows = {
        "graph": f"{profile.graph} of {profile.model}",
        "ran on": f"{profile.backend}, {profile.device}"
        + "".join(f", {name} {value}" for name, value in profile.details.items()),
        "inputs": ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in profile.shapes.items()),
        "a run": f"{profile.run_ms:.2f} ms; its layers {profile.layers_ms:.2f} ms (median of {profile.runs})",
    }
    if profile.gflop is not None:
        expected = "" if profile.expected_gflop is None else f" (torch model: {profile.expected_gflop:.3f})"
        rows["operations"] = f"{profile.gflop:.3f} GFLOP{expected}, {_percent(profile.attributed)} of them in layers"
        rows["speed"] = f"{_number(profile.gflops)} GFLOP/s"
    if profile.peaks is not None:
        peaks = ", ".join(f"{precision} {rate:.0f} GFLOP/s" for precision, rate in profile.peaks.gflops.items())
        rows["the roof"] = f"{peaks}; {profile.peaks.gigabytes:.1f} GB/s: {profile.peaks.how}"
    for number, note in enumerate(profile.notes, 1):
        rows[f"note {number}"] = note
    pairs = tuple(rows.items())
    return PlainTable("profile", ("", "value"), pairs, [dict(pairs)])


def kinds_table(kinds: tuple[KindRow, ...]) -> PlainTable:
    """Return one row per kind of work."""
    rows = [
        (
            row.kind, str(row.layers), f"{row.ms:.3f}", _percent(row.share), f"{row.gflop:.3f}",
            _number(row.gflops or None), _percent(row.reached),
        )
        for row in kinds
    ]  # fmt: skip
    columns = ("kind", "layers", "ms", "of the time", "GFLOP", "GFLOP/s", "of the roof")
    return PlainTable("kinds of work", columns, rows, [msgspec.to_builtins(row) for row in kinds])


def layers_table(layers: list[LayerRow], count: int, *, shorten: bool = True) -> PlainTable:
    """Return one row per layer, of `count` in the graph; `shorten` leaves out the middle of long names."""
    rows = [
        (
            _short(row.name) if shorten else row.name,
            row.operator + (f" ({row.kernel})" if row.kernel not in ("", "CPU") else ""),
            row.kind,
            row.precision if row.gflop else "",
            f"{row.ms:.3f}",
            _percent(row.share),
            f"{row.gflop:.3f}" if row.gflop else "",
            _number(row.gflops or None),
            _number(row.gigabytes),
            _percent(row.reached),
        )
        for row in layers
    ]
    columns = (
        "layer", "operator", "kind", "in", "ms", "of the time", "GFLOP", "GFLOP/s", "GB/s", "of the roof",
    )  # fmt: skip
    title = f"layers that take most ({len(layers)} of {count})"
    return PlainTable(title, columns, rows, [msgspec.to_builtins(row) for row in layers])


def _short(name: str) -> str:
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 2]} ... {name[3 - half :]}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if value >= 1 else f"{value:.3f}"
