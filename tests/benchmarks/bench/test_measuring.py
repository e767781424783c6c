"""Rounds of processes that say how long they took: order, warm-ups, percentiles, ratios. No time is measured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.bench_rows import contender

from samedge.benchmarks.bench import measuring
from samedge.benchmarks.bench.contenders import Contender
from samedge.benchmarks.bench.measuring import FAILED_PARITY, RANDOM_MASKS, TableBench
from samedge.benchmarks.bench.options import BenchOptions
from samedge.benchmarks.bench.records import ModelRow
from samedge.benchmarks.measure.artefacts import Artefacts


def measured(
    monkeypatch: pytest.MonkeyPatch, models: list[list[Contender]], options: BenchOptions
) -> dict[str, ModelRow]:
    """Measures contenders that need no checkpoint."""
    monkeypatch.setattr(measuring, "find_contenders", lambda *_: (tuple(model) for model in models))
    return {row.name: row for row in TableBench(options, Artefacts()).measure()}


@pytest.fixture(autouse=True)
def no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    """No energy unless a test brings it."""
    monkeypatch.setattr(measuring, "find_meter", lambda: (None, "nothing tells it"))


def test_every_round_asks_all_in_turn_and_warm_ups_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    models = [[contender("a", log=log, verdict="passed"), contender("a: slow", "slow", peer_of="a", log=log)]]
    options = BenchOptions(rounds=3, warm_ups=2, everything_rounds=2)
    rows = measured(monkeypatch, models, options)
    lines = log.read_text().splitlines()
    stages = ("preprocess", "encode", "prompt", "boxes", "everything")
    assert lines[:10] == [f"{name} {stage}" for stage in stages for name in ("a", "a: slow")]
    counts = Counter(lines)
    assert counts["a encode"] == counts["a: slow encode"] == 5
    assert counts["a everything"] == 3  # one warm-up, and rounds of its own
    encode = rows["a"].stages["encode"]
    assert encode.rounds == pytest.approx((0.003, 0.004, 0.005))  # an image; 1 and 2 ms were warm-ups
    assert encode.wall.count == 3
    assert encode.wall.median == pytest.approx(0.004)
    assert encode.wall.high == pytest.approx(0.0048)
    assert encode.wall.p99 == pytest.approx(0.00498)
    assert encode.cpu is not None
    assert encode.cpu.median == pytest.approx(0.002)
    assert encode.figures == {"masks": 2}
    assert rows["a"].stages["everything"].rounds == pytest.approx((0.002, 0.003))


def test_an_image_is_the_sum_of_its_stages_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured(monkeypatch, [[contender("a")]], BenchOptions(rounds=2, warm_ups=0))
    row = rows["a"]
    assert row.image_stages == ("preprocess", "encode", "prompt")
    assert row.images_per_second is not None
    assert row.images_per_second.median == pytest.approx((1 / 0.003 + 1 / 0.006) / 2)
    assert row.peak_bytes == 5_000_000  # five stages had been called once when the last of them was
    assert row.device_memory == 500  # the most that it said


def test_ratios_are_those_of_rounds_and_together_is_compared_with_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [
        [
            contender("a", verdict="passed"),
            contender("a: slow", "slow", peer_of="a"),
            contender("a: one", "together", peer_of="a"),
        ]
    ]
    rows = measured(monkeypatch, models, BenchOptions(rounds=3, warm_ups=0))
    slow, together = rows["a: slow"], rows["a: one"]
    assert {stage: spread.median for stage, spread in slow.ratios.items()} == pytest.approx(
        dict.fromkeys(("preprocess", "encode", "prompt", "boxes", "everything", "set_image"), 10.0)
    )
    assert together.ratios["set_image"].median == pytest.approx(0.5)
    assert together.ratios.keys() == {"set_image", "prompt"}
    assert together.empty["encode"] == "it is part of set_image"
    assert together.version == "1.2"
    assert together.images_per_second is None


def test_what_no_column_shows_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = BenchOptions(columns=("size", "encode"), rounds=1, warm_ups=0)
    rows = measured(monkeypatch, [[contender("a", log=log)]], options)
    assert set(log.read_text().splitlines()) == {"a encode"}
    assert rows["a"].stages.keys() == {"encode"}
    assert rows["a"].images_per_second is None
    log.unlink()
    measured(monkeypatch, [[contender("a", log=log)]], BenchOptions(columns=("images",), rounds=1, warm_ups=0))
    assert set(log.read_text().splitlines()) == {"a preprocess", "a encode", "a prompt"}


def test_all_threads_of_a_process_are_as_many_as_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    options = BenchOptions(columns=("encode",), rounds=1, warm_ups=0, threads=3)
    assert measured(monkeypatch, [[contender("a")]], options)["a"].details["OMP_NUM_THREADS"] == "3"


def test_apart_is_one_model_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = BenchOptions(columns=("encode",), rounds=2, warm_ups=0, apart=True)
    measured(monkeypatch, [[contender("a", log=log)], [contender("b", log=log)]], options)
    assert log.read_text().splitlines() == ["a encode", "a encode", "b encode", "b encode"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("missing", "fake is not installed"), ("refuses", "it knows no such model"), ("dies", "out of memory")],
)
def test_who_cannot_be_opened_is_skipped_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    models = [[contender("a"), contender("a: bad", kind, peer_of="a")]]
    rows = measured(monkeypatch, models, BenchOptions(columns=("encode",), rounds=1, warm_ups=0))
    assert reason in rows["a: bad"].skipped
    assert rows["a"].stages.keys() == {"encode"}


def test_who_fails_on_the_way_keeps_what_it_had_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured(monkeypatch, [[contender("a", "fails")]], BenchOptions(rounds=2, warm_ups=0))
    row = rows["a"]
    assert row.skipped == ""
    assert set(row.stages) == {"preprocess", "encode"}
    assert row.stages["encode"].wall.count == 1
    assert any("it cannot do this" in note for note in row.notes)


@pytest.mark.parametrize(("verdict", "ratios"), [("passed", True), ("unchecked", True), ("failed", False)])
def test_there_is_no_speed_up_over_wrong_masks(monkeypatch: pytest.MonkeyPatch, verdict: str, ratios: bool) -> None:
    models = [[contender("a", verdict=verdict), contender("a: slow", "slow", peer_of="a")]]
    rows = measured(monkeypatch, models, BenchOptions(columns=("encode",), rounds=1, warm_ups=0))
    peer = rows["a: slow"]
    assert bool(peer.ratios) == ratios
    assert peer.empty.get("ratio") == (None if ratios else FAILED_PARITY)
    assert peer.own_verdict == verdict


def test_random_weights_have_no_mask_agreement_and_energy_says_why_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured(monkeypatch, [[contender("a")]], BenchOptions(rounds=1, warm_ups=0))
    assert rows["a"].mask_agreement is None
    assert rows["a"].empty == {"iou": RANDOM_MASKS, "energy": "nothing tells it"}


def test_energy_is_that_of_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    class Meter:
        """Tells 12 J for whatever was done."""

        name = "a meter"

        def start(self) -> None:
            """Begins."""

        def stop(self) -> float:
            """Ends."""
            return 12.0

    monkeypatch.setattr(measuring, "find_meter", lambda: (Meter(), ""))
    monkeypatch.setattr("samedge.benchmarks.bench.measuring._ENERGY_SECONDS", 0.0)
    options = BenchOptions(columns=("energy",), rounds=1, warm_ups=0)
    energy = measured(monkeypatch, [[contender("a")]], options)["a"].energy
    assert energy is not None
    assert (energy.pictures, energy.joules, energy.meter) == (4, 3.0, "a meter")
    # Two turns of three stages, of which the n-th takes n ms an image, two images a turn: stages were run once before.
    assert energy.watts == pytest.approx(12.0 / (3 * (0.004 + 0.006)))
