"""Polygons of masks: parts, holes, edges of the image, and what filling them gives back."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from samedge.errors import UsageError
from samedge.runtime.masks.polygons import Parts, mask_outlines, mask_to_polygons, polygon_area
from samedge.types import BoolArray, FloatArray

PARTS: tuple[Parts, ...] = ("largest", "all", "merge")


def _filled(polygons: list[FloatArray], shape: tuple[int, ...]) -> BoolArray:
    canvas = np.zeros(shape, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [polygon.astype(np.int32)], (1,))
    return canvas.astype(np.bool_)


def _without_holes(mask: BoolArray) -> BoolArray:
    """Background that a path of 4 neighbours does not connect with the outside is a hole."""
    padded = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(padded, connectivity=4)
    outside: BoolArray = labels[1:-1, 1:-1] == labels[0, 0]
    return ~outside


def two_parts() -> BoolArray:
    mask = np.zeros((40, 60), np.bool_)
    mask[2:10, 3:11] = True
    mask[20:38, 30:58] = True
    return mask


@pytest.mark.parametrize("parts", PARTS)
def test_an_empty_mask_has_no_polygons(parts: Parts) -> None:
    assert mask_to_polygons(np.zeros((5, 6), np.bool_), parts) == []


def test_a_rectangle_has_four_corners_in_pixel_centres() -> None:
    mask = np.zeros((10, 12), np.bool_)
    mask[2:6, 3:9] = True
    (polygon,) = mask_to_polygons(mask)
    assert polygon.dtype == np.float32
    assert {tuple(point) for point in polygon.tolist()} == {(3, 2), (8, 2), (8, 5), (3, 5)}
    assert polygon_area(polygon) == 5 * 3


def test_parts() -> None:
    mask = two_parts()
    large, small = mask_to_polygons(mask, "all")
    assert polygon_area(large) == 27 * 17
    assert polygon_area(small) == 7 * 7
    (largest,) = mask_to_polygons(mask, "largest")
    np.testing.assert_array_equal(largest, large)
    (merged,) = mask_to_polygons(mask, "merge")
    assert polygon_area(merged) == polygon_area(large) + polygon_area(small)  # the bridge has no area
    filled = _filled([merged], mask.shape)
    assert filled[mask].all()
    assert filled.sum() - mask.sum() <= 40  # but it is drawn a pixel wide


def test_holes_are_dropped_and_can_be_asked_for() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[2:18, 2:18] = True
    mask[6:10, 6:10] = False
    assert len(mask_to_polygons(mask)) == 1
    assert len(mask_outlines(mask, holes=True)) == 2
    assert _filled(mask_to_polygons(mask), mask.shape)[7, 7]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (6, 7)])
def test_full_masks_reach_the_edges(shape: tuple[int, int]) -> None:
    (polygon,) = mask_to_polygons(np.ones(shape, np.bool_))
    np.testing.assert_array_equal(polygon.min(axis=0), [0, 0])
    np.testing.assert_array_equal(polygon.max(axis=0), [shape[1] - 1, shape[0] - 1])


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)))
def test_filling_all_parts_gives_the_mask_without_its_holes(mask: BoolArray) -> None:
    np.testing.assert_array_equal(_filled(mask_to_polygons(mask, "all"), mask.shape), _without_holes(mask))


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)))
def test_a_merged_outline_walks_each_part_once_and_each_bridge_twice(mask: BoolArray) -> None:
    parts = mask_to_polygons(mask, "all")
    merged = mask_to_polygons(mask, "merge")
    assert len(merged) == min(1, len(parts))
    if len(parts) < 2:
        return

    def steps(polygon: FloatArray) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
        points = [tuple(point) for point in polygon.tolist()]
        return [(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True) if a != b]

    walked = steps(merged[0])
    for step in (step for part in parts for step in steps(part)):
        walked.remove(step)
    bridges = sorted(walked)
    assert bridges == sorted((b, a) for a, b in bridges)


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_many_parts_are_joined(seed: int) -> None:
    mask = np.random.default_rng(seed).random((200, 300)) < 0.05
    (merged,) = mask_to_polygons(mask, "merge")
    assert _filled([merged], mask.shape)[mask].all()


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="invalid parts 'some'"):
        mask_to_polygons(np.ones((2, 2), np.bool_), cast("Any", "some"))
    with pytest.raises(UsageError, match="dtype uint8"):
        mask_to_polygons(cast("Any", np.ones((2, 2), np.uint8)))
