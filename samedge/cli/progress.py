"""Progress display on stderr, so that stdout holds results only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Display

from samedge.types import Progress


@contextmanager
def shown_progress(*, lines: bool = True) -> Iterator[Progress]:
    """Yield a callback that draws a bar on a terminal; elsewhere it writes new steps as lines if `lines` is True."""
    console = Console(stderr=True)
    if not console.is_terminal:
        last = ""

        def show(step: str, share: float) -> None:
            nonlocal last
            if lines and step != last and not step.startswith("Downloading"):
                console.print(f"{share:4.0%} {step}", highlight=False, markup=False, soft_wrap=True)
            last = step

        yield show
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Display(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda step, share: progress.update(task, description=step, completed=share)


@contextmanager
def shown_counter(seconds: float = 10.0) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a callback of the number done, the total, and a sentence about both.

    On a terminal it draws a bar; elsewhere it writes the sentence at the start, at the end, and every few seconds.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        last = float("-inf")

        def show(done: int, total: int, sentence: str) -> None:
            nonlocal last
            if done >= total or monotonic() - last >= seconds:
                console.print(sentence, highlight=False, markup=False, soft_wrap=True)
                last = monotonic()

        yield show
        return
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Display(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total, sentence: progress.update(task, description=sentence, completed=done, total=total)
