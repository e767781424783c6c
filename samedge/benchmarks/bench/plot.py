"""Plot of speed, size and mask agreement with matplotlib, which the extra ``bench`` installs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from samedge.benchmarks.bench.cells import model_name, model_rows
from samedge.benchmarks.bench.files import NAME
from samedge.benchmarks.bench.records import BenchReport, ModelRow
from samedge.benchmarks.measure.child import EXTRA
from samedge.errors import missing_extra
from samedge.storage.atomic import write_whole

FORMATS: Final = ("png", "svg")
_SIZE: Final = (8.0, 5.0)
_SALT: Final = "samedge"


def points(rows: Sequence[ModelRow]) -> list[tuple[ModelRow, float, float]]:
    """Return the models that can be plotted, with milliseconds per image and MB."""
    return [
        (row, 1e3 / row.images_per_second.median, row.size_bytes / 1e6)
        for row in model_rows(rows)
        if row.images_per_second is not None and row.size_bytes
    ]


def write_plot(report: BenchReport, folder: Path) -> list[Path]:
    """Write ``bench.png`` and ``bench.svg``, and return the paths; none if no row has both a time and a size.

    A filled point shows its mask IoU by colour; a hollow one has no meaningful IoU. Red outlines mark failed parity.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    drawn = points(report.rows)
    if not drawn:
        return []
    try:
        matplotlib = import_module("matplotlib")
        figures = import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "matplotlib", EXTRA, "The plot") from error
    paths = []
    # Without dates and random ids, the same report gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": _SALT}):
        figure = figures.Figure(figsize=_SIZE, layout="constrained")  # without pyplot: no window, no global state
        _draw(figure, report, drawn)
        for suffix in FORMATS:
            data = BytesIO()
            figure.savefig(data, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
            path = folder / f"{NAME}.{suffix}"
            write_whole(path, data.getvalue())
            paths.append(path)
    return paths


def _draw(figure: Any, report: BenchReport, drawn: Sequence[tuple[ModelRow, float, float]]) -> None:
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.25)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")  # 100, not 10²
    known = [(row, ms, size) for row, ms, size in drawn if row.mask_agreement is not None]
    hollow = [(row, ms, size) for row, ms, size in drawn if row.mask_agreement is None]
    if known:
        worst = [row.mask_agreement.worst for row, _, _ in known if row.mask_agreement]
        dots = axes.scatter(
            *_places(known), c=worst, edgecolors=_edges(known), vmin=0.9, vmax=1.0, cmap="viridis", s=90, zorder=3
        )
        figure.colorbar(dots, ax=axes, label="worst mask IoU against torch, fp32")
    if hollow:
        axes.scatter(
            *_places(hollow), facecolors="none", edgecolors=_edges(hollow), s=90, zorder=3,
            label="agreement not measured",
        )  # fmt: skip
        axes.legend(loc="upper left")
    for row, ms, size in drawn:
        axes.annotate(model_name(row), (ms, size), xytext=(7, 5), textcoords="offset points", fontsize=8)
    axes.set_xlabel("milliseconds per image: encode and one prompt; all masks for YOLO and FastSAM")
    axes.set_ylabel("size, MB")
    axes.set_title(f"{report.machine.get('processor', '')}, {report.settings.get('threads', '?')} threads", fontsize=9)
    axes.grid(visible=True, which="both", alpha=0.3)


def _places(drawn: Sequence[tuple[ModelRow, float, float]]) -> tuple[list[float], list[float]]:
    return [ms for _, ms, _ in drawn], [size for _, _, size in drawn]


def _edges(drawn: Sequence[tuple[ModelRow, float, float]]) -> list[str]:
    return ["red" if row.verdict == "failed" else "black" for row, _, _ in drawn]
