"""Masks of the image are Meta's postprocess_masks, at every size and without memory of the image's size."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.masks.masks import draw_mask, mask_bands, mask_box, upscale_bands
from samedge.runtime.prompts.shapes import mask_to_logits
from samedge.types import BoolArray, FloatArray

SIZES = [
    (1, 1), (3, 5), (480, 640), (640, 480), (1024, 1024), (256, 256), (1500, 2250), (1000, 250), (250, 1000),
    (4000, 1000), (10000, 8), (1, 10000), (30000, 4), (4, 30000), (900, 10000),
]  # fmt: skip


def random_logits(side: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(0, 5, (side, side)).astype(np.float32)


def blob_logits(side: int) -> FloatArray:
    """Smooth logits with a clear object, as a model gives them."""
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    logits: FloatArray = (8 - 20 * np.hypot(axis[None, :] - 0.1, axis[:, None] + 0.2)).astype(np.float32)
    return logits


def upscaled(logits: FloatArray, geometry: ImageGeometry) -> FloatArray:
    full = np.empty((geometry.height, geometry.width), np.float32)
    for top, band in upscale_bands(logits, geometry):
        full[top : top + len(band)] = band
    return full


def reference(logits: FloatArray, geometry: ImageGeometry) -> FloatArray:
    """`segment_anything.modeling.Sam.postprocess_masks`, line by line, with the sides that it rounds to 0 px as 1."""
    masks = torch.from_numpy(logits)[None, None]
    size = (geometry.image_size, geometry.image_size)
    masks = F.interpolate(masks, size, mode="bilinear", align_corners=False)
    masks = masks[..., : geometry.resized_height, : geometry.resized_width]
    masks = F.interpolate(masks, (geometry.height, geometry.width), mode="bilinear", align_corners=False)
    full: FloatArray = masks[0, 0].numpy()
    return full


def iou(a: BoolArray, b: BoolArray) -> float:
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else np.count_nonzero(a & b) / union


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_logits_are_the_reference(height: int, width: int) -> None:
    geometry = ImageGeometry.of(height, width, 1024)
    logits = random_logits(256)
    np.testing.assert_allclose(upscaled(logits, geometry), reference(logits, geometry), atol=1e-4, rtol=0)


@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([64, 128, 1024]), st.integers(0, 99))
def test_logits_are_the_reference_at_any_size(height: int, width: int, image_size: int, seed: int) -> None:
    geometry = ImageGeometry.of(height, width, image_size)
    logits = random_logits(image_size // 4, seed)
    np.testing.assert_allclose(upscaled(logits, geometry), reference(logits, geometry), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [*SIZES, (10000, 10000)])
def test_masks_are_the_reference(height: int, width: int) -> None:
    geometry = ImageGeometry.of(height, width, 1024)
    logits = blob_logits(256)
    mask = np.empty((height, width), np.bool_)
    draw_mask(logits, geometry, 0.0, mask)
    assert iou(mask, reference(logits, geometry) > 0) >= 0.99999


def test_the_threshold_is_exclusive_and_settable() -> None:
    geometry = ImageGeometry.of(64, 64, 64)
    logits = np.full((16, 16), 2, np.float32)
    mask = np.empty((64, 64), np.bool_)
    for threshold, expected in ((0.0, True), (1.9, True), (2.0, False), (3.0, False)):
        draw_mask(logits, geometry, threshold, mask)
        assert mask.all() == expected
        assert mask.any() == expected


def test_bands_cover_the_image_once_and_in_order() -> None:
    geometry = ImageGeometry.of(3000, 2000, 1024)
    tops = [(top, len(band)) for top, band in mask_bands(random_logits(256), geometry, 0.0)]
    assert len(tops) > 1
    assert tops[0][0] == 0
    assert all(top + rows == following for (top, rows), (following, _) in pairwise(tops))
    assert sum(tops[-1]) == 3000


@pytest.mark.parametrize(("height", "width"), [(10000, 10000), (10000, 100), (100, 10000), (2, 30000), (30000, 2)])
def test_a_mask_costs_itself_and_a_few_megabytes(height: int, width: int) -> None:
    geometry = ImageGeometry.of(height, width, 1024)
    logits = blob_logits(256)
    mask = np.zeros((height, width), np.bool_)
    for step in (lambda: draw_mask(logits, geometry, 0.0, mask), lambda: mask_box(logits, geometry, 0.0)):
        tracemalloc.start()
        step()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 6e6


def brute_box(mask: BoolArray) -> list[int]:
    y, x = np.nonzero(mask)
    return [int(x.min()), int(y.min()), int(x.max()), int(y.max())] if len(x) else [0, 0, 0, 0]


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 99), st.floats(-5, 15))
def test_boxes_are_tight(height: int, width: int, seed: int, threshold: float) -> None:
    geometry = ImageGeometry.of(height, width, 128)
    logits = random_logits(32, seed)
    mask = np.empty((height, width), np.bool_)
    draw_mask(logits, geometry, threshold, mask)
    box = mask_box(logits, geometry, threshold)
    assert box.dtype == np.float32
    assert box.tolist() == brute_box(mask)


def test_boxes_are_those_of_the_reference() -> None:
    from support import reference as packages

    packages.segment_anything()
    from segment_anything.utils.amg import batched_mask_to_box

    geometry = ImageGeometry.of(300, 200, 128)
    for logits in (blob_logits(32), random_logits(32), np.full((32, 32), -1, np.float32)):
        mask = np.empty((300, 200), np.bool_)
        draw_mask(logits, geometry, 0.0, mask)
        expected = batched_mask_to_box(torch.from_numpy(mask)[None])[0]
        assert mask_box(logits, geometry, 0.0).tolist() == expected.tolist()


class TestMaskToLogits:
    @pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480), (1000, 250), (100, 100), (2000, 3000)])
    def test_a_mask_survives_the_way_there_and_back(self, height: int, width: int) -> None:
        geometry = ImageGeometry.of(height, width, 1024)
        y, x = np.ogrid[:height, :width]
        mask = np.hypot((x - width / 2) / width, (y - height / 3) / height) < 0.25
        logits = mask_to_logits(mask, geometry, 256)
        back = np.empty_like(mask)
        draw_mask(logits, geometry, 0.0, back)
        assert iou(mask, back) > 0.97

    def test_inside_is_10_and_outside_and_padding_are_minus_10(self) -> None:
        geometry = ImageGeometry.of(100, 200, 1024)
        mask = np.zeros((100, 200), np.bool_)
        mask[20:80, 50:150] = True
        logits = mask_to_logits(mask, geometry, 256)
        assert logits.shape == (256, 256)
        assert logits.dtype == np.float32
        assert logits[64, 128] == 10
        assert logits[4, 4] == -10
        assert (logits[128:] == -10).all()  # below the image is padding
        assert logits.min() == -10
        assert logits.max() == 10

    def test_coverage_becomes_a_logit(self) -> None:
        geometry = ImageGeometry.of(64, 64, 64)
        mask = np.zeros((64, 64), np.bool_)
        mask[:, :2] = True  # half of the first column of 4 px
        logits = mask_to_logits(mask, geometry, 16)
        np.testing.assert_allclose(logits[:, 0], 0, atol=0.05)
        assert (logits[:, 1:] == -10).all()

    def test_thin_things_do_not_vanish(self) -> None:
        geometry = ImageGeometry.of(3000, 3000, 1024)
        mask = np.zeros((3000, 3000), np.bool_)
        mask[1500:1503] = True
        assert (mask_to_logits(mask, geometry, 256).max(axis=0) > -10).all()
