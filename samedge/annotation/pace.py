"""Rate and remaining time of a long run."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic


class Pace:
    """Rate of a run over `total` images, not counting those `done` by earlier runs; `clock` gives seconds."""

    def __init__(self, total: int, done: int = 0, clock: Callable[[], float] = monotonic) -> None:
        self.total = total
        self.done = done
        self._clock = clock
        self._begun = clock()
        self._own = 0

    def step(self) -> None:
        """Count an image that this run processed."""
        self.done += 1
        self._own += 1

    def skip(self) -> None:
        """Count an image that an earlier run processed."""
        self.done += 1

    @property
    def rate(self) -> float | None:
        """Images per second; None before the first."""
        elapsed = self._clock() - self._begun
        return self._own / elapsed if self._own and elapsed > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated time for the remaining images; None before the first."""
        rate = self.rate
        return None if rate is None else max(0, self.total - self.done) / rate

    def __str__(self) -> str:
        text = f"{self.done} of {self.total} images"
        if self.rate is None or self.seconds_left is None:
            return text
        return f"{text}, {shown_rate(self.rate)}, {shown_time(self.seconds_left)} left"


def shown_rate(rate: float) -> str:
    """Return a rate per second, minute or hour, whichever reads best."""
    for unit, seconds in (("a second", 1), ("a minute", 60)):
        if rate * seconds >= 1:
            return f"{rate * seconds:.1f} {unit}"
    return f"{rate * 3600:.1f} an hour"


def shown_time(seconds: float) -> str:
    """Return a time in its two largest units: "45 s", "4 min 05 s", "2 h 10 min", "3 d 4 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
