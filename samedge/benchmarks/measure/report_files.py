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
    """Return a median with, in brackets, the range of the middle eight in ten and the number of outliers."""
    low, middle, high = (short(value * scale) for value in (spread.low, spread.median, spread.high))
    outliers = f", {spread.outliers} outlier{'s' if spread.outliers > 1 else ''}" if spread.outliers else ""
    return f"{middle}{unit} ({low}–{high}{outliers})"


def short(value: float) -> str:
    """Return a number with three significant digits, but all its integer digits."""
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{decimals}f}"


def markdown_cell(text: str) -> str:
    """Return a text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", "<br>")


def csv_lines(lines: Sequence[Mapping[str, object]], first: str) -> str:
    """Return dictionaries of the same keys as CSV.

    Args:
        lines: One dictionary per line.
        first: The heading if there are no lines.
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
    """Write files of one name, replacing older ones, and return the paths.

    Args:
        texts: Contents by suffix.
        folder: Created if missing.
        name: Name of the files, without suffix.

    Raises:
        StorageError: A file cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{name}{suffix}"
        write_whole(path, text.encode())
        paths.append(path)
    return paths
