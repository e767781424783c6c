"""Tables in four formats: terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from samedge.errors import UsageError

FORMATS: Final = ("table", "markdown", "csv", "json")


@dataclass(frozen=True, slots=True)
class PlainTable:
    """A table in no particular format.

    Attributes:
        title: The title; the key of the rows in JSON.
        columns: Names of the columns.
        rows: One text per column.
        records: The rows with full values, for JSON.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    records: Sequence[Mapping[str, object]]


def print_tables(tables: Sequence[PlainTable], form: str, *, columns: int | None = None) -> None:
    """Write tables to stdout.

    Args:
        tables: JSON holds each under its title; CSV separates them by an empty line.
        form: One of `FORMATS`.
        columns: Width of a table if stdout is not a terminal and COLUMNS is unset; 80 by default.

    Raises:
        UsageError: The format is unknown.
    """
    if form == "table":
        console = Console()
        if columns is not None and not console.is_terminal and "COLUMNS" not in os.environ:
            console = Console(width=columns)
        for table in tables:
            console.print(_rich(table))
    else:
        sys.stdout.write(tables_text(tables, form))


def tables_text(tables: Sequence[PlainTable], form: str) -> str:
    """Return tables as text.

    Args:
        tables: As in `print_tables`.
        form: "markdown", "csv" or "json".

    Raises:
        UsageError: The format is unknown.
    """
    if form == "json":
        document = {table.title: list(table.records) for table in tables}
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if form == "csv":
        return "\n".join(_csv(table) for table in tables)
    if form == "markdown":
        return "\n".join(_markdown(table) for table in tables)
    raise UsageError(f"unknown format {form!r}", cure=f"Choose one of: {', '.join(FORMATS)}")


def _rich(table: PlainTable) -> Table:
    shown = Table(title=escape(table.title), title_justify="left")
    for name in table.columns:
        shown.add_column(escape(name), overflow="fold")
    for row in table.rows:
        shown.add_row(*(escape(value) for value in row))
    return shown


def _csv(table: PlainTable) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return text.getvalue()


def _markdown(table: PlainTable) -> str:
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    cells = (" | ".join(" ".join(value.replace("|", "\\|").split()) for value in line) for line in lines)
    return f"**{table.title}**\n\n" + "".join(f"| {line} |\n" for line in cells)
