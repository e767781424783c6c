"""Display of a growing table and of progress: live on a terminal, elsewhere once at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

WIDTH: Final = 240
"""Width in characters if stdout is not a terminal."""


class Screen:
    """The table on stdout, with progress below it, or on stderr if stdout is not a terminal; `table` takes a width."""

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
        """Show a sentence of progress."""
        self._sentence = sentence
        if self._live is None:
            self._errors.print(sentence, markup=False, highlight=False, soft_wrap=True)
        else:
            self._draw()

    def refresh(self) -> None:
        """Show the current table; if stdout is not a terminal, it is shown at the end."""
        self._filled = True
        self._draw()

    def _draw(self) -> None:
        if self._live is not None:
            table = self._table(self._console.width)
            self._live.update(Group(table, Text(self._sentence, style="dim")), refresh=True)
