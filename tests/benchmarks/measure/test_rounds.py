"""Interleaving: the order of calls, what counts, and the statistics of it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samedge.benchmarks.measure.rounds import Contender, interleave, spread_of
from samedge.errors import BenchmarkError


class Clock:
    """Wall and CPU time that pass only when a contender says so."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __call__(self) -> tuple[float, float]:
        return self.wall, self.cpu

    def spend(self, name: str, walls: list[float], log: list[str]) -> Contender:
        """A contender whose calls take these times, one after the other, and half of it on the processor."""
        left = iter(walls)

        def call() -> None:
            log.append(name)
            wall = next(left)
            self.wall += wall
            self.cpu += wall / 2

        return Contender(name, call)


def test_every_round_calls_each_contender_once_in_the_same_order() -> None:
    clock, log, rounds = Clock(), list[str](), list[int]()
    contenders = [clock.spend(name, [1.0] * 5, log) for name in "abc"]
    interleave(contenders, 3, warm_ups=2, clocks=clock, report=rounds.append)
    assert log == list("abc") * 5
    assert rounds == [1, 2, 3, 4, 5]


def test_warm_ups_do_not_count_and_ratios_are_those_of_a_round() -> None:
    clock, log = Clock(), list[str]()
    # The machine slows down from round to round: the ratio of each is 2, that of any two medians could be anything.
    baseline = clock.spend("baseline", [100.0, 2.0, 4.0, 80.0], log)
    ours = clock.spend("ours", [0.1, 1.0, 2.0, 40.0], log)
    timings = interleave([baseline, ours], 3, warm_ups=1, clocks=clock)
    assert timings["ours"].ratio.median == timings["ours"].ratio.low == timings["ours"].ratio.high == pytest.approx(2)
    assert timings["ours"].cpu_ratio.median == pytest.approx(2)
    assert timings["ours"].wall.median == pytest.approx(2)
    assert timings["ours"].cpu.median == pytest.approx(1)
    assert timings["baseline"].wall.median == pytest.approx(4)
    assert timings["baseline"].ratio == spread_of([1.0] * 3)
    assert timings["ours"].wall.count == 3


def test_the_median_of_ratios_is_not_the_ratio_of_medians() -> None:
    clock, log = Clock(), list[str]()
    baseline = clock.spend("baseline", [1.0, 10.0, 3.0], log)
    ours = clock.spend("ours", [2.0, 5.0, 1.0], log)
    ratio = interleave([baseline, ours], 3, warm_ups=0, clocks=clock)["ours"].ratio
    assert ratio.median == pytest.approx(2)  # of 0.5, 2 and 3; 3 / 2 would be 1.5
    assert ratio.low == pytest.approx(0.5 + 0.2 * 1.5)
    assert ratio.high == pytest.approx(2 + 0.8 * 1)


def test_the_garbage_collector_rests_during_a_call_and_goes_on_after_it() -> None:
    seen = []
    interleave([Contender("a", lambda: seen.append(gc.isenabled()))], 2, warm_ups=0)
    assert seen == [False, False]
    assert gc.isenabled()

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        interleave([Contender("a", fail)], 1)
    assert gc.isenabled()


def test_a_clock_that_saw_nothing_gives_a_ratio_nevertheless() -> None:
    timings = interleave([Contender("a", int), Contender("b", int)], 1, clocks=lambda: (0.0, 0.0))
    assert timings["b"].ratio.median == 1


@pytest.mark.parametrize("contenders", [[], [Contender("a", int), Contender("a", int)]])
def test_contenders_that_cannot_be_told_apart(contenders: list[Contender]) -> None:
    with pytest.raises(BenchmarkError, match="not unique"):
        interleave(contenders, 1)


@pytest.mark.parametrize(("rounds", "warm_ups"), [(0, 1), (1, -1)])
def test_rounds_that_mean_nothing(rounds: int, warm_ups: int) -> None:
    with pytest.raises(BenchmarkError, match="invalid rounds"):
        interleave([Contender("a", int)], rounds, warm_ups=warm_ups)


class TestSpread:
    def test_deciles_are_interpolated(self) -> None:
        spread = spread_of([float(value) for value in range(11)])
        assert (spread.low, spread.median, spread.high, spread.count) == (1.0, 5.0, 9.0, 11)

    def test_outliers_are_counted_and_not_left_out(self) -> None:
        spread = spread_of([1.0, 1.1, 0.9, 1.0, 1.05, 50.0])
        assert spread.outliers == 1
        assert spread.high > 10
        assert spread_of([1.0] * 9).outliers == 0

    def test_of_few_numbers_none_is_called_an_outlier(self) -> None:
        assert spread_of([1.0, 1.0, 1.0, 50.0]).outliers == 0

    def test_nothing_has_no_median(self) -> None:
        with pytest.raises(BenchmarkError, match="no values to take the median of"):
            spread_of([])

    @given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40), st.sampled_from([sorted, reversed]))
    def test_it_lies_among_the_numbers_in_any_order(
        self, values: list[float], order: Callable[[list[float]], list[float]]
    ) -> None:
        spread = spread_of(values)
        assert min(values) <= spread.low <= spread.median <= spread.high <= max(values)
        assert spread_of(list(order(values))) == spread
