"""Parameters under both sets of names, with the defaults of Meta's generator."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from support import reference

from samedge.errors import UsageError
from samedge.runtime.everything.parameters import OTHER_NAMES, EverythingOptions, EverythingParameters, run_of


def test_names_and_defaults_are_meta_s() -> None:
    theirs = inspect.signature(reference.segment_anything().SamAutomaticMaskGenerator).parameters
    ours = {field.name: field.default for field in fields(EverythingParameters)}
    assert ours == {name: each.default for name, each in theirs.items() if name not in ("model", "output_mode")}


def test_every_option_is_a_parameter_or_about_the_run() -> None:
    names = {field.name for field in fields(EverythingParameters)}
    run = {"mode", "time_budget_ms", "progress", "cancel"}
    assert set(EverythingOptions.__annotations__) == names | set(OTHER_NAMES) | run
    assert set(OTHER_NAMES.values()) <= names


def test_both_sets_of_names() -> None:
    given = {"points_stride": 8, "points_batch_size": 2, "conf_thres": 0.1, "iou": 0.2, "crop_downscale_factor": 2}
    ours = run_of(given).parameters
    assert [getattr(ours, OTHER_NAMES[name]) for name in given] == list(given.values())


def test_grids_take_the_place_of_points_per_side() -> None:
    run = run_of({"point_grids": [[[0.5, 0.5], [0.1, 1.0]]]})
    assert run.parameters.points_per_side is None
    (grid,) = run.parameters.grids()
    np.testing.assert_array_equal(grid, [[0.5, 0.5], [0.1, 1.0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": 0}, "invalid points_per_side 0"),
        ({"points_per_side": 2.5}, "invalid points_per_side 2.5"),
        ({"points_per_side": True}, "invalid points_per_side True"),
        ({"points_per_side": None}, "neither of points_per_side and point_grids"),
        ({"points_per_side": 4, "point_grids": [[[0.5, 0.5]]]}, "both of points_per_side and point_grids"),
        ({"point_grids": [[[0.5, 1.5]]]}, "points outside 0 to 1"),
        ({"point_grids": [[[0.5, float("nan")]]]}, "points outside 0 to 1"),
        ({"point_grids": [np.zeros((0, 2))]}, r"invalid grid of shape \(0, 2\)"),
        ({"point_grids": [[[0.5, 0.5]]], "crop_n_layers": 1}, "1 grids given"),
        (
            {"points_per_side": 4, "crop_n_layers": 3, "crop_n_points_downscale_factor": 2},
            "4 points per side are too few",
        ),
        ({"crop_n_layers": 6}, "its last layer would have 4,096 crops"),
        ({"crop_n_layers": -1}, "invalid crop_n_layers -1"),
        ({"crop_overlap_ratio": 1.0}, "invalid crop_overlap_ratio 1.0"),
        ({"pred_iou_thresh": "high"}, "invalid pred_iou_thresh 'high'"),
        ({"stability_score_offset": float("inf")}, "invalid stability_score_offset inf"),
        ({"min_mask_region_area": -3}, "invalid min_mask_region_area -3"),
        ({"mode": "quick"}, "unknown mode 'quick'"),
        ({"iou": 0.5, "box_nms_thresh": 0.5}, "iou and box_nms_thresh are the same parameter"),
    ],
)
def test_what_means_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_of(options)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("points_per_sides", "did you mean 'points_per_side'"), ("qqq", "known: points_per_side, points_per_batch")],
)
def test_names_that_are_not_known(name: str, hint: str) -> None:
    with pytest.raises(TypeError, match=hint):
        run_of({name: 1})
