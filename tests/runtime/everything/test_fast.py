"""Fast mode asks fewer points, in a known order, and finds most of what all of them find."""

from __future__ import annotations

from itertools import count, pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.generators import demo_predictor, drawn_scene, mask_ious

from samedge.errors import CancelledError, UsageError
from samedge.runtime.everything.candidates import Candidate
from samedge.runtime.everything.coarse_to_fine import grid_levels
from samedge.runtime.everything.parameters import point_grid
from samedge.runtime.everything.sweep import Sweep
from samedge.runtime.everything.watch import Watch
from samedge.testing.predictor import fake_predictor

ASK = Sweep.prompt
SURE: dict[str, Any] = {"points_per_side": 32, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.7}


class Answers:
    """Of every point that was asked, what the sweep made of it: another sweep of the image need not ask it again."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[list[Candidate], np.float32]] = {}
        self.asking = ASK

    def ask(self, sweep: Sweep, rows: NDArray[np.intp]) -> list[Candidate]:
        """Stands in for `Sweep.prompt`, and counts as it does."""
        if not self.known.keys() >= set(rows.tolist()):
            found = self.asking(sweep, rows)
            for row in rows.tolist():
                self.known[row] = ([one for one in found if one.grid_index == row], sweep.margins[row])
            return found
        sweep.tally.decoder_prompts += len(rows)
        sweep.tally.decoder_calls += 1
        sweep.margins[rows] = [self.known[row][1] for row in rows.tolist()]
        return [one for row in rows.tolist() for one in self.known[row][0]]


@pytest.mark.parametrize(
    ("seeds", "at_least"),
    # Other scenes than those on which the numbers were chosen.
    [(range(65, 69), 40), pytest.param(range(60, 72), 200, marks=pytest.mark.full_size)],
    ids=["some", "all"],
)
def test_recall_and_the_number_of_points(monkeypatch: pytest.MonkeyPatch, seeds: range, at_least: int) -> None:
    predictor = demo_predictor()
    wanted, hit, prompts = 0, 0, []
    for seed in seeds:
        bgr, answers = drawn_scene(seed, 256, 256), Answers()
        monkeypatch.setattr(Sweep, "prompt", lambda sweep, rows, answers=answers: answers.ask(sweep, rows))
        exact, fast = predictor.everything(bgr, **SURE), predictor.everything(bgr, **SURE, mode="fast")
        ious = mask_ious(list(exact.iter_masks()), list(fast.iter_masks()))
        wanted += len(exact)
        hit += int((ious >= 0.9).any(axis=1).sum())
        assert exact.statistics.decoder_prompts == exact.statistics.points == fast.statistics.points == 1024
        prompts.append(fast.statistics.decoder_prompts)
    assert wanted >= at_least
    assert hit >= 0.95 * wanted
    assert sum(prompts) <= 0.45 * 1024 * len(prompts)


def test_the_points_around_the_masks_that_stay_were_asked() -> None:
    bgr = drawn_scene(61, 256, 256)
    asked: list[tuple[float, float]] = []
    ask = Sweep.prompt

    def recorded(sweep: Sweep, rows: NDArray[np.intp]) -> list[Candidate]:
        asked.extend((float(x), float(y)) for x, y in sweep.points[rows])
        return ask(sweep, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sweep, "prompt", recorded)
        fast = demo_predictor().everything(bgr, **SURE, mode="fast")
    assert len(fast) > 0
    assert len(asked) == len(set(asked)) == fast.statistics.decoder_prompts
    step = 256 / 32
    for x, y in fast.point_coords.tolist():
        around = product((x - step, x, x + step), (y - step, y, y + step))
        assert {(a, b) for a, b in around if 0 < a < 256 and 0 < b < 256} <= set(asked)


def test_it_is_deterministic_and_a_subset_of_the_points() -> None:
    bgr = drawn_scene(3, 256, 256)
    loose: dict[str, Any] = {"points_per_side": 16, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.6}
    first = demo_predictor().everything(bgr, **loose, mode="fast")
    again = demo_predictor().everything(bgr, **loose, mode="fast")
    assert len(first) > 0
    assert first.rles == again.rles
    assert first.statistics.decoder_prompts == again.statistics.decoder_prompts < 256
    grid = {tuple(point) for point in (point_grid(16) * 256).tolist()}
    assert {tuple(point) for point in first.point_coords.tolist()} <= grid


def test_points_without_hope_are_not_asked() -> None:
    found = fake_predictor(image_size=256).everything(np.zeros((256, 256, 3), np.uint8), mode="fast")
    assert len(found) == 0  # every mask scores 0.8 at best, and 0.88 is wanted: nearly good enough
    assert found.statistics.decoder_prompts == 1024
    hopeless = fake_predictor(image_size=256).everything(
        np.zeros((256, 256, 3), np.uint8), mode="fast", pred_iou_thresh=0.95
    )
    assert hopeless.statistics.decoder_prompts == 305  # enough that one is near every point


@given(st.integers(1, 70))
def test_each_point_of_a_grid_is_in_one_level_and_coarse_ones_are_spread(side: int) -> None:
    shares = point_grid(side)
    levels = grid_levels(shares)
    rows = np.concatenate([rows for rows, _ in levels])
    assert sorted(rows.tolist()) == list(range(side * side))
    first = shares[levels[0][0]]
    if side >= 8:
        assert len(first) <= len(shares) / 4
        assert (first.min(axis=0) < 0.25).all()
        assert (first.max(axis=0) > 0.75).all()
    for (_, coarse), (_, fine) in pairwise(levels):
        assert fine < coarse


@given(st.integers(0, 1000), st.integers(1, 300))
def test_each_point_of_any_set_is_in_one_level(seed: int, count: int) -> None:
    shares = np.random.default_rng(seed).random((count, 2))
    rows = np.concatenate([rows for rows, _ in grid_levels(shares)])
    assert sorted(rows.tolist()) == list(range(count))


class TestTime:
    def test_the_budget_ends_the_search_and_what_was_found_is_returned(self) -> None:
        predictor = fake_predictor(image_size=256)
        bgr = np.zeros((256, 256, 3), np.uint8)
        options: dict[str, Any] = {"mode": "fast", "pred_iou_thresh": 0.75, "box_nms_thresh": 0.99}
        found = predictor.everything(bgr, **options, time_budget_ms=1e-6)
        assert (len(found), found.statistics.complete, found.statistics.decoder_calls) == (0, False, 0)
        everything = predictor.everything(bgr, **options, time_budget_ms=1e9)
        assert everything.statistics.complete
        assert len(everything) > 0

    def test_no_step_is_begun_that_would_end_too_late(self) -> None:
        now = count()  # each look at the clock takes a second
        watch = Watch(time_budget_ms=10_000, clock=lambda: float(next(now)))
        steps = 0
        while watch.begin_step():
            watch.end_step()
            steps += 1
        assert steps == 4
        assert watch.elapsed_ms == 10_000

    def test_without_a_budget_there_is_always_time(self) -> None:
        watch = Watch(clock=lambda: 1e9)
        assert all(watch.begin_step() for _ in range(3))

    @pytest.mark.parametrize(("options", "message"), [
        ({"time_budget_ms": 5.0}, "exact mode always prompts all points"),
        ({"time_budget_ms": 0.0, "mode": "fast"}, "invalid time budget of 0.0 ms"),
        ({"time_budget_ms": float("nan"), "mode": "fast"}, "invalid time budget of nan ms"),
    ])  # fmt: skip
    def test_budgets_that_mean_nothing(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            fake_predictor().everything(np.zeros((8, 8, 3), np.uint8), **options)


class TestCancel:
    def test_by_function_and_by_event(self) -> None:
        from threading import Event

        predictor = fake_predictor(image_size=64)
        bgr = np.zeros((64, 64, 3), np.uint8)
        calls = count()
        with pytest.raises(CancelledError):
            predictor.everything(bgr, cancel=lambda: next(calls) >= 3)
        event = Event()
        assert predictor.everything(bgr, cancel=event).statistics.complete
        event.set()
        with pytest.raises(CancelledError, match="everything: cancelled"):
            predictor.everything(bgr, cancel=event)
        assert len(predictor.predict(points=[10, 10])) == 1  # and goes on working

    @pytest.mark.parametrize("mode", ["exact", "fast"])
    def test_progress_rises_to_the_end(self, mode: Any) -> None:
        told: list[tuple[str, float]] = []
        fake_predictor(image_size=64).everything(
            np.zeros((64, 64, 3), np.uint8),
            mode=mode,
            points_per_side=8,
            crop_n_layers=1,
            min_mask_region_area=1,
            pred_iou_thresh=0.75,
            progress=lambda sentence, share: told.append((sentence, share)),
        )
        shares = [share for _, share in told]
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (0.0, 1.0)
        assert list(dict.fromkeys(sentence for sentence, _ in told)) == [
            "Encoding the image", "Prompting points", "Removing small regions", "Done",
        ]  # fmt: skip
