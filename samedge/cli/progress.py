"""Progress of long work, on stderr, so that stdout holds results only."""

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
    """Give a function that takes a sentence and the share that is done, 0..1, and shows both while the block runs.

    On a terminal that is a bar; elsewhere each new sentence is a line.

    Args:
        lines: Without a terminal, write lines; if not, nothing is shown there.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        last = ""

        def say(step: str, share: float) -> None:
            nonlocal last
            if lines and step != last and not step.startswith("Downloading"):
                console.print(f"{share:4.0%} {step}", highlight=False, markup=False, soft_wrap=True)
            last = step

        yield say
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Display(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda step, share: progress.update(task, description=step, completed=share)


@contextmanager
def shown_counter(seconds: float = 10.0) -> Iterator[Callable[[int, int, str], None]]:
    """Give a function that takes how many are done, of how many, and a sentence that says it, and shows them.

    On a terminal that is a bar; elsewhere the sentence is a line at the first, at the last, and every few seconds.

    Args:
        seconds: Between two lines.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        last = float("-inf")

        def say(done: int, total: int, sentence: str) -> None:
            nonlocal last
            if done >= total or monotonic() - last >= seconds:
                console.print(sentence, highlight=False, markup=False, soft_wrap=True)
                last = monotonic()

        yield say
        return
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Display(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total, sentence: progress.update(task, description=sentence, completed=done, total=total)
