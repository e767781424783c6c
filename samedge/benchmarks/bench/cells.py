"""Cells of the table, the same on the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from rich.table import Table

from samedge.benchmarks.bench.options import COLUMNS, STAGE_COLUMNS
from samedge.benchmarks.bench.records import SET_IMAGE, ModelRow
from samedge.benchmarks.measure.rounds import NOTHING, Spread, short
from samedge.tables import rich_table

HEADINGS: Final = {
    "size": "size, MB",
    "params": "params, M",
    "gflops": "GFLOPs",
    "preprocess": "preprocess, ms",
    "encode": "encode, ms",
    "prompt": "one prompt, ms",
    "boxes": "32 boxes, ms",
    "everything": "everything, ms",
    "images": "images/s",
    "rss": "peak RSS, MB",
    "device-memory": "device, MB",
    "energy": "J/image",
    "iou": "mask IoU",
    "backend": "backend",
    "parity": "parity",
}
PERCENTILES: Final = " (p50 / p90 / p99)"
SET_IMAGE_HEADING: Final = "preprocess + encode"
_NARROW: Final = ("size", "encode", "prompt", "everything", "rss", "parity")
_WIDE: Final = 200
_REFUSED: Final = "refused"


def model_name(row: ModelRow) -> str:
    """Return the row's name, marked if the weights are random."""
    return f"{row.name} (random weights)" if row.seeded else row.name


def times(spread: Spread) -> str:
    """Return the median and two percentiles in ms, and the number of outliers."""
    values = [spread.median, spread.high, *([] if spread.p99 is None else [spread.p99])]
    outliers = f" ({spread.outliers} outlier{'s' if spread.outliers > 1 else ''})" if spread.outliers else ""
    return " / ".join(short(value * 1e3) for value in values) + outliers


def _number(value: float | None, unit: float = 1.0) -> str:
    return NOTHING if value is None else short(value / unit)


def _gflops(row: ModelRow) -> str:
    if row.gflops is None:
        return NOTHING
    return short(row.gflops) + (f" + {short(row.prompt_gflops)} per prompt" if row.prompt_gflops else "")


def _iou(row: ModelRow) -> str:
    agreement = row.mask_agreement
    if agreement is None:
        return NOTHING
    worst = f"worst {agreement.worst:.4f}"
    return worst if agreement.mean is None else f"{agreement.mean:.4f} ({worst})"


def _backend(row: ModelRow) -> str:
    if not row.backend:
        return NOTHING
    providers = row.details.get("providers")
    return f"{row.backend} on {row.device}" + (f" ({providers})" if providers else "")


_CELLS: Final[dict[str, Callable[[ModelRow], str]]] = {
    "size": lambda row: _number(row.size_bytes, 1e6),
    "params": lambda row: _number(row.parameters, 1e6),
    "gflops": _gflops,
    "images": lambda row: _number(row.images_per_second.median if row.images_per_second else None),
    "rss": lambda row: _number(row.peak_bytes, 1e6),
    "device-memory": lambda row: _number(row.device_memory, 1e6),
    "energy": lambda row: _number(row.energy.joules if row.energy else None),
    "iou": _iou,
    "backend": _backend,
    "parity": lambda row: row.verdict.upper() if row.verdict == "failed" else row.verdict or NOTHING,
}


def cell(row: ModelRow, column: str) -> str:
    """Return the text of a row's cell."""
    if column in STAGE_COLUMNS:
        result = row.stages.get(column)
        return NOTHING if result is None else times(result.wall)
    return _CELLS[column](row)


def heading(column: str) -> str:
    """Return the heading of a column, which names the percentiles it holds."""
    return HEADINGS[column] + (PERCENTILES if column in STAGE_COLUMNS else "")


def model_rows(rows: Sequence[ModelRow]) -> list[ModelRow]:
    """Return the rows of samedge's own models."""
    return [row for row in rows if not row.peer_of]


def peer_rows(rows: Sequence[ModelRow]) -> list[ModelRow]:
    """Return the rows of peers."""
    return [row for row in rows if row.peer_of]


def shown_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns in the order of the table."""
    return [column for column in COLUMNS if column in columns]


def model_table(rows: Sequence[ModelRow], columns: Sequence[str], width: int) -> Table:
    """Return the models as a terminal table; a narrow one has only the main columns, and medians of the times."""
    wide = width >= _WIDE
    shown = [column for column in shown_columns(columns) if wide or column in _NARROW]
    lines: list[list[str]] = []
    styles: list[str | None] = []
    for row in model_rows(rows):
        if row.skipped:
            lines.append([row.name, f"skipped: {row.skipped}"])
            styles.append("dim")
            continue
        texts = [cell(row, column) for column in shown]
        if not wide:
            texts = [text.partition(" / ")[0] for text in texts]
        lines.append([model_name(row), *texts])
        styles.append("red" if row.verdict == "failed" else "yellow" if row.seeded else None)
    columns = ["model", *(heading(column) if wide else HEADINGS[column] for column in shown)]
    return rich_table("samedge bench", columns, lines, right=range(1, len(columns)), styles=styles)


def ratio_cell(row: ModelRow, stage: str) -> str:
    """Return a peer's time and its ratio to samedge's; "refused" if samedge's parity forbids a ratio."""
    wall = row.stages[stage].wall if stage in row.stages else None
    ratio = row.ratios.get(stage)
    own = NOTHING if wall is None else f"{short(wall.median * 1e3)} ms"
    if ratio is not None:
        mark = ", parity unchecked" if row.own_verdict == "unchecked" else ""
        spread = f"{short(ratio.median)}x ({short(ratio.low)}–{short(ratio.high)}{mark})"
        return spread if wall is None else f"{own}: {spread}"
    return f"{own}: {_REFUSED}" if wall is not None and "ratio" in row.empty else own


PEER_STAGES: Final = (*STAGE_COLUMNS[:2], SET_IMAGE, *STAGE_COLUMNS[2:])
PEER_HEADINGS: Final = (
    "peer", *(SET_IMAGE_HEADING if stage == SET_IMAGE else stage for stage in PEER_STAGES), HEADINGS["rss"],
)  # fmt: skip


def peer_cells(row: ModelRow) -> list[str]:
    """Return what the table of peers says of one."""
    if row.skipped:
        return [row.name, f"skipped: {row.skipped}"]
    return [row.name, *(ratio_cell(row, stage) for stage in PEER_STAGES), cell(row, "rss")]


def peer_table(rows: Sequence[ModelRow]) -> Table:
    """Return the peers as a terminal table."""
    peers = peer_rows(rows)
    return rich_table(
        "peers: time, and ratio to samedge's",
        PEER_HEADINGS,
        map(peer_cells, peers),
        right=range(1, len(PEER_HEADINGS)),
        styles=("dim" if row.skipped else None for row in peers),
    )
