"""What goes on between two calls of the decoder: progress is told, and it is asked whether to go on."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final

from samedge.errors import CancelledError
from samedge.runtime.everything.parameters import Cancel
from samedge.types import Progress

# The next piece of work may take longer than the last by about this much.
_CAUTION: Final = 1.2


class Watch:
    """Progress, cancelling and time of one run.

    Args:
        progress: Called with a sentence and the share that is done, 0..1.
        cancel: An event, or a function that returns whether to stop.
        time_budget_ms: From now on; None for as long as it takes.
        clock: Seconds.
    """

    def __init__(
        self,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        time_budget_ms: float | None = None,
        *,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._progress = progress
        self._cancel = cancel
        self._clock = clock
        self._start = clock()
        self._budget = None if time_budget_ms is None else time_budget_ms / 1e3
        self._last = self._start
        self._longest_step = 0.0

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the beginning."""
        return (self._clock() - self._start) * 1e3

    def report(self, sentence: str, share: float) -> None:
        """Tell what is being done, and the share that is done."""
        if self._progress is not None:
            self._progress(sentence, min(1.0, share))

    def begin_step(self) -> bool:
        """Return whether there is time for one more step of about the length of the last ones.

        Raises:
            CancelledError: The caller wants no more.
        """
        cancel = self._cancel
        if cancel is not None and (cancel() if callable(cancel) else cancel.is_set()):
            raise CancelledError("cancelled", where="everything")
        self._last = self._clock()
        if self._budget is None:
            return True
        return self._last - self._start + _CAUTION * self._longest_step <= self._budget

    def end_step(self) -> None:
        """Say that the step that was begun last is done."""
        self._longest_step = max(self._longest_step, self._clock() - self._last)
