"""FastSAM's prompts, as a choice among masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samedge.errors import PromptError
from samedge.runtime.results.results import Results
from samedge.runtime.yolo.fastsam import choose, snap_to_border

H, W = 60, 100
AREAS = {"left": (0, 0, 40, 60), "right": (60, 0, 100, 60), "middle": (30, 20, 70, 40), "dot": (10, 10, 14, 14)}


@pytest.fixture
def results() -> Results:
    masks = np.zeros((len(AREAS), H, W), np.bool_)
    for mask, (left, top, right, bottom) in zip(masks, AREAS.values(), strict=True):
        mask[top:bottom, left:right] = True
    boxes = np.column_stack([np.array(list(AREAS.values())), np.linspace(0.9, 0.6, 4), np.zeros(4)])
    return Results(np.zeros((H, W, 3), np.uint8), boxes=boxes, masks=masks)


def chosen(results: Results) -> dict[str, int]:
    """Names of the objects and the prompts that they answer."""
    if results.boxes is None:
        return {}
    names: dict[tuple[int, ...], str] = {area: name for name, area in AREAS.items()}
    kinds = [names[tuple(int(side) for side in box)] for box in results.boxes.xyxy]
    return dict(zip(kinds, results.prompt_index.tolist(), strict=True))


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({}, {"left": 0, "right": 0, "middle": 0, "dot": 0}),
        ({"bboxes": [28, 18, 72, 42]}, {"middle": 0}),
        ({"bboxes": [[28, 18, 72, 42], [9, 9, 15, 15]]}, {"middle": 0, "dot": 1}),
        ({"bboxes": [[28, 18, 72, 42], [29, 19, 71, 41]]}, {"middle": 0}),
        ({"bboxes": [-500, -500, 42, 500]}, {"left": 0}),
        ({"points": [35, 30]}, {"left": 0, "middle": 0}),
        ({"points": [[35, 30], [65, 5]]}, {"left": 0, "right": 1, "middle": 0}),
        ({"points": [[35, 30], [5, 50]], "labels": [1, 0]}, {"middle": 0}),
        ({"points": [[35, 30]], "labels": [0]}, {"right": 0, "dot": 0}),
        ({"points": [[35, 30], [65, 5]], "labels": [0, 0]}, {"dot": 0}),
        ({"points": [500, 500]}, {"right": 0}),
        ({"points": [50, 5]}, {}),
        ({"points": [[65, 5]], "bboxes": [9, 9, 15, 15]}, {"right": 1, "dot": 0}),
        ({"points": np.array([[35.9, 30.9]]), "labels": np.array([1])}, {"left": 0, "middle": 0}),
    ],
)
def test_what_prompts_mean(results: Results, prompts: dict[str, Any], expected: dict[str, int]) -> None:
    found = choose(results, **prompts)
    assert chosen(found) == expected
    assert len(found) == (0 if found.masks is None else len(found.masks))
    assert found.orig_shape == results.orig_shape


@pytest.mark.parametrize(
    "prompts",
    [
        {"labels": [1]},
        {"points": [[1, 2, 3]]},
        {"points": [[1, 2]], "labels": [1, 0]},
        {"points": [[1, 2]], "labels": [2]},
        {"points": [[np.nan, 2]]},
        {"bboxes": [[1, 2, 3]]},
        {"bboxes": "box"},
        {"points": [[[1, 2]]]},
    ],
)
def test_prompts_that_mean_nothing(results: Results, prompts: dict[str, Any]) -> None:
    with pytest.raises(PromptError):
        choose(results, **prompts)


def test_nothing_to_choose_from() -> None:
    empty = Results(np.zeros((H, W, 3), np.uint8), boxes=np.zeros((0, 6)))
    assert len(choose(empty, bboxes=[1, 2, 3, 4])) == 0
    assert len(snap_to_border(empty)) == 0


def test_boxes_snap_to_the_border() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    boxes = np.array([[19, 20, 181, 79, 0.5, 0], [25, 25, 100, 85, 0.5, 0], [5, 5, 195, 95, 0.5, 0]])
    before = boxes.copy()
    snapped = snap_to_border(Results(image, boxes=boxes))
    assert snapped.boxes is not None
    np.testing.assert_array_equal(snapped.boxes.xyxy, [[0, 20, 200, 79], [25, 25, 100, 100], [0, 0, 200, 100]])
    np.testing.assert_array_equal(boxes, before)


def test_a_box_that_nearly_covers_the_image_is_the_image() -> None:
    image = np.zeros((1000, 1000, 3), np.uint8)
    snapped = snap_to_border(Results(image, boxes=np.array([[21, 21, 975, 975, 0.5, 0], [60, 60, 975, 975, 0.5, 0]])))
    assert snapped.boxes is not None
    np.testing.assert_array_equal(snapped.boxes.xyxy, [[0, 0, 1000, 1000], [60, 60, 975, 975]])
