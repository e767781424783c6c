"""Resizing and coordinates are Meta's ResizeLongestSide, at every size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import reference

from samedge.models.sam.configs import IMAGENET
from samedge.runtime.image.geometry import ImageGeometry, normalised_input, raw_input
from samedge.types import ImageArray

SIZES = [
    (1, 1), (3, 5), (5, 3), (3, 300), (480, 640), (640, 480), (1024, 1024), (1024, 700), (333, 1337), (250, 1000),
    (1000, 250), (2000, 3000), (3000, 1000), (10000, 80), (10000, 100), (80, 10000), (150, 30000),
]  # fmt: skip
# Here Meta's code rounds a side to 0 px and fails.
TOO_THIN = [(1, 10000), (10000, 1), (4, 30000), (30000, 4)]


def random_image(height: int, width: int) -> ImageArray:
    return np.random.default_rng(height * 31 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def longest_side(size: int) -> Any:
    reference.segment_anything()
    from segment_anything.utils.transforms import ResizeLongestSide

    return ResizeLongestSide(size)


@pytest.mark.parametrize("image_size", [128, 1024])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pixels_are_the_reference_to_the_last_bit(height: int, width: int, image_size: int) -> None:
    bgr = random_image(height, width)
    geometry = ImageGeometry.of(height, width, image_size)
    expected = longest_side(image_size).apply_image(np.ascontiguousarray(bgr[..., ::-1]))
    assert (geometry.resized_height, geometry.resized_width) == expected.shape[:2]
    raw = raw_input(bgr, geometry)
    assert raw.dtype == np.float32
    np.testing.assert_array_equal(raw, expected)


@given(st.integers(1, 12000), st.integers(1, 12000), st.sampled_from([64, 512, 1024]))
def test_sizes_are_the_reference(height: int, width: int, image_size: int) -> None:
    geometry = ImageGeometry.of(height, width, image_size)
    expected = longest_side(image_size).get_preprocess_shape(height, width, image_size)
    assert (geometry.resized_height, geometry.resized_width) == tuple(max(1, side) for side in expected)
    assert max(geometry.resized_height, geometry.resized_width) == image_size


@given(
    st.integers(1, 12000),
    st.integers(1, 12000),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5),
)
def test_coordinates_are_the_reference(height: int, width: int, shares: list[tuple[float, float]]) -> None:
    geometry = ImageGeometry.of(height, width, 1024)
    if min(round(side * 1024 / max(height, width)) for side in (height, width)) == 0:
        return
    xy = np.array(shares) * (width, height)
    expected = longest_side(1024).apply_coords(xy, (height, width))
    got = geometry.to_input(xy)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, torch.as_tensor(expected, dtype=torch.float).numpy())


@pytest.mark.parametrize(("height", "width"), TOO_THIN)
def test_a_side_that_would_vanish_is_one_pixel(height: int, width: int) -> None:
    bgr = random_image(height, width)
    geometry = ImageGeometry.of(height, width, 1024)
    assert min(geometry.resized_height, geometry.resized_width) == 1
    raw = raw_input(bgr, geometry)
    assert raw.shape == (geometry.resized_height, geometry.resized_width, 3)
    np.testing.assert_allclose(raw.mean((0, 1)), bgr[..., ::-1].mean((0, 1)), atol=6)
    corner = geometry.to_input(np.array([width, height], np.float64))
    np.testing.assert_allclose(corner, [geometry.resized_width, geometry.resized_height], rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (7, 900)])
def test_the_input_is_normalised_and_then_padded_with_zeros_as_the_reference_does(height: int, width: int) -> None:
    bgr = random_image(height, width)
    geometry = ImageGeometry.of(height, width, 128)
    got = normalised_input(bgr, geometry, IMAGENET)
    resized = longest_side(128).apply_image(np.ascontiguousarray(bgr[..., ::-1]))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET.pixel_mean, IMAGENET.pixel_std))
    x = (torch.from_numpy(resized.copy()).permute(2, 0, 1) - mean) / std
    x = torch.nn.functional.pad(x, (0, 128 - x.shape[2], 0, 128 - x.shape[1]))
    assert got.shape == (1, 3, 128, 128)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got[0], x.numpy())


def test_views_and_grey_images_are_resized_too() -> None:
    bgr = random_image(50, 70)
    geometry = ImageGeometry.of(50, 70, 64)
    np.testing.assert_array_equal(geometry.resize(bgr[::-1])[..., 0], geometry.resize(bgr[::-1, :, 0]))
