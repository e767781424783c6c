"""How candidates are timed: one after the other, within the time there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.timed_backends import Clock, TimedBackend, install

from samedge.engines.trials import RUNS, Candidate, Trial, measure, noise
from samedge.types import TensorSpec


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"anything")
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


A, B = Candidate("a", "cpu"), Candidate("b", "cpu")


def test_the_median_of_the_runs_after_the_first(graph: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TimedBackend("a", clock, {"cpu": [0.9, 0.5, 0.1, 0.2]}, opening=0.25)
    install(monkeypatch, backend)
    (trial,) = measure(graph, [A], threads=3, sizes={"height": 5}, clock=clock)
    assert trial == Trial("a", "cpu", 200.0, 900.0, 0.25, runs=1 + RUNS, usable=True)
    assert (backend.opened[0].device, backend.opened[0].threads) == ("cpu", 3)
    assert [feeds["x"].shape for feeds in backend.engines[0].calls] == [(1, 5, 3)] * 4


def test_only_one_is_open_at_a_time(graph: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (TimedBackend(name, clock, {"cpu": [0.1]}) for name in "ab")
    install(monkeypatch, first, second)
    closed_before = []
    original = second.probe

    def probe() -> object:
        closed_before.append([engine.closed for engine in first.engines])
        return original()

    monkeypatch.setattr(second, "probe", probe)
    measure(graph, [A, B], clock=clock)
    assert closed_before == [[True]]
    assert [engine.closed for engine in second.engines] == [True]


def test_what_cannot_run_says_why(graph: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        monkeypatch,
        TimedBackend("a", clock, {"cuda": [0.1]}),
        TimedBackend("b", clock, {"cpu": [0.1]}, broken="no kernel"),
        TimedBackend("c", clock, {"cpu": [0.1]}, gives=np.nan),
        TimedBackend("d", clock, {"cpu": [0.1]}),
    )
    trials = measure(graph, [Candidate(name, "cpu") for name in "abcd"], clock=clock)
    assert [trial.note for trial in trials] == ["cpu is on holiday", "no kernel", "its output 'y' is not finite", None]
    assert [trial.usable for trial in trials] == [False, False, False, True]


def test_who_is_far_behind_is_not_run_again(graph: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = TimedBackend("b", clock, {"cpu": [2.0]})
    install(monkeypatch, TimedBackend("a", clock, {"cpu": [0.5]}), slow)
    trial = measure(graph, [A, B], clock=clock)[1]
    assert trial.stopped
    assert (trial.runs, trial.milliseconds, trial.first_milliseconds) == (1, None, 2000.0)
    assert trial.note == "stopped: its first run took 4.0 times the best first run"
    assert trial.usable


def test_a_short_first_run_stops_nobody(graph: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of small graphs the first run is preparation for the most part."""
    late = TimedBackend("b", clock, {"cpu": [0.9, 0.005]})
    install(monkeypatch, TimedBackend("a", clock, {"cpu": [0.01]}), late)
    trial = measure(graph, [A, B], clock=clock)[1]
    assert (trial.stopped, trial.milliseconds) == (False, 5.0)


def test_nobody_takes_the_time_of_the_others(graph: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, TimedBackend("a", clock, {"cpu": [4.0]}), TimedBackend("b", clock, {"cpu": [3.0]}))
    first, second = measure(graph, [A, B], seconds=20, clock=clock)
    assert (first.runs, first.note) == (2, "no time for more runs")
    assert (second.runs, second.note) == (4, None)
    assert clock.now == 20


def test_what_there_is_no_time_for_is_not_tried(graph: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    second = TimedBackend("b", clock, {"cpu": [1.0]})
    install(monkeypatch, TimedBackend("a", clock, {"cpu": [60.0]}), second)
    trials = measure(graph, [A, B], seconds=20, clock=clock)
    assert (trials[0].runs, trials[0].first_milliseconds, trials[0].milliseconds) == (1, 60_000.0, None)
    assert trials[1] == Trial("b", "cpu", note="not tried: the 20 s for measuring were used up")
    assert second.opened == []


def test_one_that_failed_late_leaves_the_others_their_chance(
    graph: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        monkeypatch,
        TimedBackend("a", clock, {"cpu": [1.0]}, opening=60, broken="no memory"),
        TimedBackend("b", clock, {"cpu": [1.0]}),
    )
    assert [trial.usable for trial in measure(graph, [A, B], seconds=20, clock=clock)] == [False, True]


def test_noise_is_the_same_each_time_and_fits() -> None:
    inputs = {
        "image": TensorSpec(("height", "width", 3), np.dtype(np.float32)),
        "half": TensorSpec(("n",), np.dtype(np.float16)),
        "labels": TensorSpec((2, "n"), np.dtype(np.int32)),
        "flag": TensorSpec((), np.dtype(np.bool_)),
    }
    feeds = noise(inputs, {"height": 4, "width": 5})
    assert {name: (array.shape, array.dtype) for name, array in feeds.items()} == {
        "image": ((4, 5, 3), np.dtype(np.float32)),
        "half": ((1,), np.dtype(np.float16)),
        "labels": ((2, 1), np.dtype(np.int32)),
        "flag": ((), np.dtype(np.bool_)),
    }
    assert 0.5 < feeds["image"].std() < 2
    np.testing.assert_array_equal(noise(inputs, {"height": 4, "width": 5})["image"], feeds["image"])
