"""Tables as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from samedge.benchmarks.measure.rounds import Spread
from samedge.errors import storage_errors
from samedge.storage.atomic import write_whole

NOTHING: Final = "–"


def spread_text(spread: Spread, unit: str, scale: float = 1.0) -> str:
    """Return a median and, in brackets, between which values eight of ten lie; and how many are outliers."""
    low, middle, high = (short(value * scale) for value in (spread.low, spread.median, spread.high))
    outliers = f", {spread.outliers} outlier{'s' if spread.outliers > 1 else ''}" if spread.outliers else ""
    return f"{middle}{unit} ({low}–{high}{outliers})"


def short(value: float) -> str:
    """Return a number with three digits, but never fewer than the whole ones."""
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{decimals}f}"


def markdown_cell(text: str) -> str:
    """Return a text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", "<br>")


def csv_lines(lines: Sequence[Mapping[str, object]], first: str) -> str:
    """Return dictionaries of the same keys as CSV.

    Args:
        lines: One each.
        first: The heading where there are none.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else [first], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def json_text(report: msgspec.Struct) -> str:
    """Return a report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


def write_texts(texts: Mapping[str, str], folder: Path, name: str) -> list[Path]:
    """Write files of one name, in place of older ones, and return the paths.

    Args:
        texts: By suffix.
        folder: Made if it is not there.
        name: Of the files.

    Raises:
        StorageError: The file system said no.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{name}{suffix}"
        write_whole(path, text.encode())
        paths.append(path)
    return paths
