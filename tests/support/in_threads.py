"""Calls at the same time, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Thread


def in_threads(calls: Sequence[Callable[[], object]]) -> None:
    """Makes all calls, waits for them, and raises the first exception of any."""
    problems: list[BaseException] = []

    def carried(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as problem:  # noqa: BLE001 - carried to the thread that waits
            problems.append(problem)

    threads = [Thread(target=carried, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
