"""Grids, crops, edges, small regions and stability are those of segment_anything.utils.amg."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import reference

from samedge.runtime.everything.candidates import Candidate, distinct_across_crops, distinct_in_crop
from samedge.runtime.everything.crops import Crop, crops_of, cut_by_crop
from samedge.runtime.everything.parameters import layer_grids
from samedge.runtime.everything.small_regions import clean_up, without_small_regions
from samedge.runtime.everything.stability import CLEAR, Levels, draw_all, estimate_stability
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.masks.masks import draw_mask, upscale_bands
from samedge.runtime.masks.rle import encode_rle
from samedge.types import BoolArray, FloatArray


def amg() -> Any:
    return reference.segment_anything().utils.amg


@given(st.integers(1, 70), st.integers(0, 3), st.integers(1, 3))
def test_grids(side: int, layers: int, factor: int) -> None:
    if side < factor**layers:
        return  # the reference divides by 0
    expected = amg().build_all_layer_point_grids(side, layers, factor)
    ours = layer_grids(side, None, layers, factor)
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@given(st.integers(16, 3000), st.integers(16, 3000), st.integers(0, 3), st.floats(0, 0.9))
def test_crops(height: int, width: int, layers: int, ratio: float) -> None:
    boxes, layer_of = amg().generate_crop_boxes((height, width), layers, ratio)
    crops = crops_of(height, width, layers, ratio)
    assert [list(crop.xyxy) for crop in crops] == boxes
    assert [crop.layer for crop in crops] == layer_of


def test_crops_of_a_few_pixels_lie_in_the_image() -> None:
    for crop in crops_of(3, 40, 4, 0.3):
        assert 0 <= crop.left < crop.right <= 40
        assert 0 <= crop.top < crop.bottom <= 3


@given(st.integers(0, 10_000))
def test_masks_that_the_edge_of_a_crop_cuts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(60, 300, 2))
    for crop in crops_of(height, width, 1, 0.3):
        boxes = rng.integers(0, np.array([crop.width, crop.height] * 2), (30, 4)).astype(np.float32)
        expected = amg().is_box_near_crop_edge(torch.from_numpy(boxes), list(crop.xyxy), [0, 0, width, height])
        moved = boxes + np.array([crop.left, crop.top] * 2, np.float32)
        np.testing.assert_array_equal(cut_by_crop(moved, crop, height, width), expected.numpy())


def blobs(seed: int, height: int, width: int) -> BoolArray:
    """Rectangles and specks, and rectangles and specks cut out of them."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.bool_)
    for at in range(int(rng.integers(0, 14))):
        y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
        size = int(rng.choice([1, 2, 4, 9]))
        mask[y : y + size, x : x + size] = at % 3 != 2
    return mask


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from(["holes", "islands"]))
def test_small_regions(seed: int, least: int, kind: Any) -> None:
    mask = blobs(seed, 24, 30)
    expected, changed = amg().remove_small_regions(mask, least, kind)
    ours = without_small_regions(mask, least, kind)
    assert (ours is not None) == changed
    if ours is not None:
        np.testing.assert_array_equal(ours, expected)


def candidate(mask: BoolArray, score: float, crop: Crop | None = None, asked: int = 0) -> Candidate:
    whole = crop or Crop(0, 0, mask.shape[1], mask.shape[0], 0)
    box = amg().batched_mask_to_box(torch.from_numpy(mask)[None])[0].numpy().astype(np.float32)
    return Candidate(encode_rle(mask), box, np.float32(score), 1.0, (0.0, 0.0), whole, asked)


@given(st.integers(0, 10_000), st.integers(2, 30))
def test_clean_up(seed: int, least: int) -> None:
    masks = [blobs(seed + at, 24, 30) for at in range(6)]
    data = amg().MaskData(
        rles=amg().mask_to_rle_pytorch(torch.from_numpy(np.stack(masks))),
        boxes=amg().batched_mask_to_box(torch.from_numpy(np.stack(masks))),
        row=torch.arange(6),
    )
    generator = reference.segment_anything().SamAutomaticMaskGenerator
    expected = generator.postprocess_small_regions(data, least, 0.7)
    ours = clean_up([candidate(mask, 0.5, asked=at) for at, mask in enumerate(masks)], least, 0.7)
    assert [each.grid_index for each in ours] == expected["row"].tolist()
    np.testing.assert_array_equal(
        np.array([each.box for each in ours]).reshape(-1, 4), expected["boxes"].numpy().reshape(-1, 4)
    )
    assert [each.rle for each in ours] == [encode_rle(amg().rle_to_mask(rle)) for rle in expected["rles"]]


def test_of_two_masks_that_resemble_each_other_one_stays() -> None:
    small, large = Crop(0, 0, 40, 40, 1), Crop(0, 0, 80, 80, 0)
    mask = np.zeros((80, 80), np.bool_)
    mask[5:25, 5:25] = True
    worse, better = candidate(mask, 0.6, small), candidate(mask, 0.9, large)
    assert distinct_in_crop([worse, better], 0.7) == [better]
    assert distinct_across_crops([better, worse], 0.7) == [worse]
    assert distinct_across_crops([], 0.7) == distinct_in_crop([], 0.7) == []


def smooth_logits(seed: int, count: int, side: int) -> FloatArray:
    """Blobs of all sizes whose outlines are sharp or blurred, as a decoder draws them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    drawn = []
    for _ in range(count):
        centre, radii = rng.uniform(0, side, 2), np.exp(rng.uniform(np.log(1), np.log(side / 2), 2))
        distance = np.hypot((y - centre[0]) / radii[0], (x - centre[1]) / radii[1]) - 1
        waves = 0.3 * np.sin(x * rng.uniform(0, 1)) * np.cos(y * rng.uniform(0, 1))
        sharpness = np.exp(rng.uniform(np.log(0.5), np.log(40)))
        drawn.append(np.clip(-sharpness * (distance + waves) + rng.normal(0, 0.1, (side, side)), -30, 30))
    return np.array(drawn, np.float32)


SHAPES = [(256, 256), (200, 340), (340, 200), (40, 700), (90, 60), (1024, 768)]


@pytest.mark.parametrize("seed", range(12))
def test_stability_boxes_and_masks_inside_windows(seed: int) -> None:
    height, width = SHAPES[seed % len(SHAPES)]
    geometry = ImageGeometry.of(height, width, 256)
    logits, levels = smooth_logits(seed, 24, 64), Levels.around(0.0, (1.0, 0.3)[seed % 2])
    full = np.stack([np.concatenate([band.copy() for _, band in upscale_bands(one, geometry)]) for one in logits])
    expected = amg().calculate_stability_score(torch.from_numpy(full), 0.0, levels.higher).numpy()
    boxes = amg().batched_mask_to_box(torch.from_numpy(full > 0)).numpy()
    for at, drawn in enumerate(draw_all(logits, geometry, levels)):
        np.testing.assert_allclose(drawn.stability, expected[at], atol=2e-3)
        np.testing.assert_array_equal(drawn.box, boxes[at])
        whole = np.zeros((height, width), np.bool_)
        whole[drawn.window.rows, drawn.window.columns] = drawn.inside
        mask = np.empty((height, width), np.bool_)
        draw_mask(logits[at], geometry, 0.0, mask)
        assert np.count_nonzero(whole ^ mask) <= 1e-4 * mask.size
        outside = full[at] > levels.lower
        outside[drawn.window.rows, drawn.window.columns] = False
        assert not outside.any()


@pytest.mark.parametrize("least", [0.6, 0.85, 0.95])
def test_no_mask_is_dropped_at_low_resolution_that_would_stay(least: float) -> None:
    dropped = 0
    for seed in range(24):
        geometry = ImageGeometry.of(*SHAPES[seed % len(SHAPES)], 256)
        logits, levels = smooth_logits(1000 + seed, 30, 64), Levels.around(0.0, 1.0)
        estimate = estimate_stability(logits, geometry, levels)
        too_low = estimate.too_low(least)
        stable = np.array([drawn.stability >= least for drawn in draw_all(logits, geometry, levels)])
        assert not (too_low & stable).any()
        assert not (too_low & estimate.near(least)).any()
        dropped += int(too_low.sum())
    assert dropped > 30


def test_the_estimate_is_closer_than_it_has_to_be() -> None:
    geometry, levels = ImageGeometry.of(768, 1024, 256), Levels.around(0.0, 1.0)
    logits = smooth_logits(5, 200, 64)
    estimate = estimate_stability(logits, geometry, levels)
    exact = np.array([drawn.stability for drawn in draw_all(logits, geometry, levels)])
    off = np.abs(estimate.stability - exact)[~estimate.rough & ~np.isnan(exact)]
    assert len(off) > 30
    assert off.max() < CLEAR


def test_where_nothing_is_drawn() -> None:
    (drawn,) = draw_all(np.full((1, 64, 64), -20, np.float32), ImageGeometry.of(30, 40, 256), Levels.around(0.0, 1.0))
    assert drawn.inside.size == 0
    assert np.isnan(drawn.stability)
    assert drawn.box.tolist() == [0, 0, 0, 0]
