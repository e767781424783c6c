"""Progress reports, cancellation and time limit between calls of the decoder."""

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
    """Progress, cancellation and time limit of one run.

    The time limit counts from now on. The clock is monotonic, in seconds.
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
        """Milliseconds since the start."""
        return (self._clock() - self._start) * 1e3

    def report(self, sentence: str, share: float) -> None:
        """Report the current step and the completed share."""
        if self._progress is not None:
            self._progress(sentence, min(1.0, share))

    def begin_step(self) -> bool:
        """Return True if there is time for one more step of about the length of the last ones.

        Raises:
            CancelledError: The caller cancelled.
        """
        cancel = self._cancel
        if cancel is not None and (cancel() if callable(cancel) else cancel.is_set()):
            raise CancelledError("cancelled", where="everything", cure="Call it again to segment the image")
        self._last = self._clock()
        if self._budget is None:
            return True
        return self._last - self._start + _CAUTION * self._longest_step <= self._budget

    def end_step(self) -> None:
        """End the current step."""
        self._longest_step = max(self._longest_step, self._clock() - self._last)
