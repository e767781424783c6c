"""Progress of long work, on stderr, so that stdout holds results only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextmanager
def shown_progress(*, lines: bool = True) -> Iterator[Callable[[str, float], None]]:
    """Gives a function that takes a sentence and the share that is done, 0..1, and shows both while the block runs.

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
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda step, share: progress.update(task, description=step, completed=share)
