"""Tables in four formats: terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from samedge.errors import UsageError
from samedge.storage.atomic import write_whole

if TYPE_CHECKING:
    from rich.table import Table

FORMATS: Final = ("table", "markdown", "csv", "json")


@dataclass(frozen=True, slots=True)
class PlainTable:
    """A table in no particular format; `records` are its rows with full values, which JSON holds under the title."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    records: Sequence[Mapping[str, object]]


def print_tables(tables: Sequence[PlainTable], form: str, *, columns: int | None = None) -> None:
    """Write tables to stdout in one of `FORMATS`, `columns` wide if neither a terminal nor $COLUMNS sets the width."""
    if form != "table":
        sys.stdout.write(tables_text(tables, form))
        return
    from rich.console import Console

    console = Console()
    if columns is not None and not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=columns)
    for table in tables:
        console.print(rich_table(table.title, table.columns, table.rows))


def tables_text(tables: Sequence[PlainTable], form: str) -> str:
    """Return tables as "markdown", "csv" (separated by empty lines) or "json" (each under its title)."""
    if form == "json":
        return json_text({table.title: list(table.records) for table in tables})
    if form == "csv":
        return "\n".join(csv_text(table.columns, table.rows) for table in tables)
    if form != "markdown":
        raise unknown_format(form)
    return "\n".join(f"**{table.title}**\n\n{markdown_table(table.columns, table.rows)}" for table in tables)


def unknown_format(form: str) -> UsageError:
    """Return the error for a format that is none of `FORMATS`."""
    return UsageError(f"unknown format {form!r}", cure=f"Choose one of: {', '.join(FORMATS)}")


def rich_table(
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]] = (),
    *,
    right: Collection[int] = (),
    styles: Iterable[str | None] = (),
    **options: Any,
) -> Table:
    """Return a table for the terminal, without markup.

    `right` are the indices of right-aligned columns, `styles` the styles of the first rows, `options` those of
    `rich.table.Table`.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=None if title is None else escape(title), title_justify="left", **options)
    for index, name in enumerate(columns):
        table.add_column(escape(name), overflow="fold", justify="right" if index in right else "left")
    style = iter(styles)
    for row in rows:
        table.add_row(*map(escape, row), style=next(style, None))
    return table


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join(f"| {' | '.join(map(_markdown_cell, line))} |\n" for line in lines)


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def markdown_facts(**sections: Mapping[str, str]) -> str:
    """Return facts as Markdown: a heading and a list per section, without empty sections."""
    return "".join(
        f"\n## {title.replace('_', ' ')}\n\n" + "".join(f"- {name}: {value}\n" for name, value in facts.items())
        for title, facts in sections.items()
        if facts
    )


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def csv_records(records: Sequence[Mapping[str, object]], first: str) -> str:
    """Return dictionaries with the same keys as CSV; without records, the heading is `first`."""
    return csv_text(list(records[0]) if records else [first], [list(record.values()) for record in records])


def json_text(document: object) -> str:
    """Return plain values, structs and dataclasses as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def write_texts(texts: Mapping[str, str], folder: Path, name: str) -> list[Path]:
    """Write texts, given by suffix, to ``folder/name.suffix``, and return the paths."""
    files = {folder / f"{name}{suffix}": text for suffix, text in texts.items()}
    for path, text in files.items():
        write_whole(path, text.encode())
    return list(files)
