"""A table that grows while it is measured: live on a terminal, once at the end elsewhere; and what is being done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

WIDTH: Final = 240
"""Columns where stdout is no terminal."""


class Screen:
    """The table on stdout; sentences about what goes on below it, or on stderr where stdout is no terminal.

    Args:
        table: Given the columns of the terminal, returns the table as it is now.
    """

    def __init__(self, table: Callable[[int], RenderableType]) -> None:
        self._table = table
        self._console, self._errors = Console(), Console(stderr=True)
        self._sentence = ""
        self._filled = False
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> None:
        if self._live is not None:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        self._sentence = ""
        if self._live is not None:
            self._draw()
            self._live.stop()
        elif self._filled:
            Console(width=WIDTH).print(self._table(WIDTH))

    def warn(self, sentence: str) -> None:
        """Write a sentence to stderr."""
        self._errors.print(f"{sentence}.", markup=False, highlight=False, soft_wrap=True)

    def say(self, sentence: str) -> None:
        """Show what is being done."""
        self._sentence = sentence
        if self._live is None:
            self._errors.print(sentence, markup=False, highlight=False, soft_wrap=True)
        else:
            self._draw()

    def refresh(self) -> None:
        """Show the table as it is now; where stdout is no terminal, there is something to show at the end."""
        self._filled = True
        self._draw()

    def _draw(self) -> None:
        if self._live is not None:
            table = self._table(self._console.width)
            self._live.update(Group(table, Text(self._sentence, style="dim")), refresh=True)
