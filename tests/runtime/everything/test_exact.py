"""In exact mode the masks are those of Meta's SamAutomaticMaskGenerator, one for one and in its order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.generators import SIZES, demo_predictor, drawn_scene, mask_ious, meta_records

from samedge.runtime.everything.found import FoundMasks
from samedge.types import ImageArray

LOOSE: dict[str, Any] = {
    "points_per_side": 6,
    "pred_iou_thresh": 0.3,
    "stability_score_thresh": 0.5,
    "box_nms_thresh": 0.9,
}
"""The weights are rarely sure of a click: with these, about a dozen masks of a scene stay."""


def check(bgr: ImageArray, **options: Any) -> FoundMasks:
    """Compares everything that both generators say of each mask."""
    found, records = demo_predictor().everything(bgr, **options), meta_records(bgr, **options)
    assert len(found) == len(records)
    ious = mask_ious(list(found.iter_masks()), [record["segmentation"] for record in records])
    if len(found):
        assert ious.max(axis=0).min() >= 0.99, "a mask of Meta's is missing"
        assert ious.max(axis=1).min() >= 0.99, "there is a mask that Meta's generator does not find"
        assert np.diag(ious).min() >= 0.99, "the order is another"
    for ours, theirs in zip(found.records(), records, strict=True):
        assert ours["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-4)
        assert ours["stability_score"] == pytest.approx(theirs["stability_score"], abs=2e-3)
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=1)
        assert ours["area"] == pytest.approx(theirs["area"], rel=2e-3, abs=2)
        assert ours["point_coords"] == [pytest.approx(theirs["point_coords"][0])]
        assert ours["crop_box"] == theirs["crop_box"]
    return found


@pytest.mark.parametrize("scenes", [len(SIZES), pytest.param(20, marks=pytest.mark.full_size)])
def test_scenes_of_every_orientation(scenes: int) -> None:
    counts = []
    for seed in range(scenes):
        found = check(drawn_scene(seed, *SIZES[seed % len(SIZES)]), **LOOSE)
        counts.append(len(found))
        statistics = found.statistics
        assert statistics.decoder_prompts == statistics.points == 36
        assert statistics.decoder_calls == 3  # of 16 prompts at most
        assert statistics.masks_scored == 3 * 36
        assert statistics.masks_upscaled <= statistics.masks_drawn <= 4 * 36
        assert statistics.complete
    assert sum(counts) >= 5 * scenes


@pytest.mark.parametrize(
    "options",
    [
        {"box_nms_thresh": 0.7},
        {"pred_iou_thresh": 0.55, "stability_score_thresh": 0.8},
        {"stability_score_offset": 0.3, "stability_score_thresh": 0.85},
        {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_side": 3},
        {"pred_iou_thresh": 2.0},
        {"min_mask_region_area": 200},
        {"crop_n_layers": 1, "points_per_side": 4},
        {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "min_mask_region_area": 50, "crop_nms_thresh": 0.5},
        {"points_per_side": None, "point_grids": [np.array([[0.1, 0.2], [0.7, 0.7], [0.5, 0.31], [0.99, 0.01]])]},
    ],
    ids="-".join,
)
@pytest.mark.parametrize("size", [(300, 512), (512, 340)])
def test_every_parameter(options: dict[str, Any], size: tuple[int, int]) -> None:
    found = check(drawn_scene(3, *size), **{**LOOSE, **options})
    assert len(found) > 0 or "pred_iou_thresh" in options


def test_an_image_much_larger_than_the_model_s_input() -> None:
    check(drawn_scene(4, 900, 1200), **{**LOOSE, "points_per_side": 4})


@pytest.mark.parametrize("size", [(20, 300), (300, 20), (7, 9)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    check(drawn_scene(1, *size), **{**LOOSE, "points_per_side": 4})


def test_the_number_of_points_at_once_changes_nothing() -> None:
    bgr = drawn_scene(2, 256, 256)
    predictor = demo_predictor()
    few, many = predictor.everything(bgr, **LOOSE, points_per_batch=5), predictor.everything(bgr, **LOOSE)
    assert few.statistics.decoder_calls == 8
    assert many.statistics.decoder_calls == 3
    assert len(few) == len(many) > 0
    ious = mask_ious(list(few.iter_masks()), list(many.iter_masks()))
    assert np.diag(ious).min() >= 0.99


def test_masks_that_cannot_stay_are_not_drawn() -> None:
    bgr = drawn_scene(2, 256, 256)
    strict = demo_predictor().everything(bgr, **{**LOOSE, "pred_iou_thresh": 2.0})
    assert (strict.statistics.masks_drawn, strict.statistics.masks_upscaled) == (0, 0)
    stable = demo_predictor().everything(bgr, **{**LOOSE, "stability_score_thresh": 0.95})
    loose = demo_predictor().everything(bgr, **LOOSE)
    assert stable.statistics.masks_upscaled < loose.statistics.masks_upscaled
