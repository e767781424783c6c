"""Rate and time left, on a clock that is moved by hand."""

from __future__ import annotations

import pytest

from samedge.annotation.pace import Pace, shown_rate, shown_time


def test_rate_counts_what_the_run_did_itself() -> None:
    now = 100.0
    pace = Pace(1000, clock=lambda: now)
    assert (pace.rate, pace.seconds_left, str(pace)) == (None, None, "0 of 1000 images")
    for _ in range(400):
        pace.skip()
    assert str(pace) == "400 of 1000 images"
    for _ in range(50):
        pace.step()
    now += 25
    assert (pace.done, pace.rate, pace.seconds_left) == (450, 2.0, 275.0)
    assert str(pace) == "450 of 1000 images, 2.0 a second, 4 min 35 s left"


def test_images_that_came_after_counting() -> None:
    now = 0.0
    pace = Pace(1, clock=lambda: now)
    pace.step()
    pace.step()
    now += 1
    assert pace.seconds_left == 0


@pytest.mark.parametrize(
    ("rate", "text"), [(30.0, "30.0 a second"), (0.5, "30.0 a minute"), (0.01, "36.0 an hour"), (0.0001, "0.4 an hour")]
)
def test_rates(rate: float, text: str) -> None:
    assert shown_rate(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (245, "4 min 05 s"), (7800, "2 h 10 min"), (100_000, "1 d 3 h")]
)
def test_times(seconds: float, text: str) -> None:
    assert shown_time(seconds) == text
