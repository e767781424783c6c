"""Rows of an image are mixtures of rows of logits, computed in products that one thread does."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn import functional as F

from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.masks.masks import (
    ONE_THREAD,
    column_taps,
    mix_rows,
    row_blocks,
    row_taps,
    upscale_bands,
    windows_above,
)

SIZES = [
    (512, 512, 256),
    (810, 1080, 1024),
    (1080, 810, 1024),
    (3000, 4000, 1024),
    (7, 9, 256),
    (1, 300, 64),
    (300, 1, 64),
]


@pytest.mark.parametrize(("height", "width", "square"), SIZES)
def test_blocks_hold_all_rows_once_and_give_what_the_taps_say(height: int, width: int, square: int) -> None:
    geometry, low = ImageGeometry.of(height, width, square), square // 4
    taps, blocks = row_taps(low, geometry), row_blocks(low, geometry)
    whole = np.zeros((height, low), np.float32)
    for tap in range(4):
        np.add.at(whole, (np.arange(height), taps.index[:, tap]), taps.weight[:, tap])
    assert_array_equal(np.concatenate([np.arange(height)[block.targets] for block in blocks]), np.arange(height))
    for block in blocks:
        assert_allclose(whole[block.targets, block.sources], block.matrix, atol=1e-7)
        assert_allclose(block.matrix.sum(axis=1), 1, atol=1e-6)
        assert block.matrix.size * width <= ONE_THREAD


@pytest.mark.parametrize(("rows", "columns"), [((0, 810), (0, 1080)), ((13, 700), (5, 6)), ((809, 810), (0, 1080))])
def test_any_window_is_a_part_of_the_whole(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    geometry = ImageGeometry.of(810, 1080, 1024)
    logits = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    whole = np.concatenate([band.copy() for _, band in upscale_bands(logits, geometry)])
    own_rows, own_columns = slice(*rows), slice(*columns)
    out = np.empty((rows[1] - rows[0], columns[1] - columns[0]), np.float32)
    mix_rows(logits, geometry, own_rows, column_taps(256, geometry).within(own_columns), out)
    assert_allclose(out, whole[own_rows, own_columns], atol=1e-6)


def test_drawing_asks_for_no_product_that_starts_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[int] = []
    matmul = np.matmul

    def counted(left: Any, right: Any, **options: Any) -> Any:
        products.append(left.size * right.shape[-1])
        return matmul(left, right, **options)

    monkeypatch.setattr(np, "matmul", counted)
    geometry = ImageGeometry.of(2000, 3000, 1024)
    logits = np.random.default_rng(0).normal(size=(1, 256, 256)).astype(np.float32)
    for window in windows_above(logits, geometry, 0.0):
        for _ in upscale_bands(logits[0], geometry, window):
            pass
    assert products
    assert max(products) <= ONE_THREAD


@pytest.mark.parametrize(("height", "width"), [(810, 1080), (1080, 810), (2160, 3840)])
def test_no_pixel_differs_from_the_reference_as_it_would_with_two_calls_of_opencv(height: int, width: int) -> None:
    geometry = ImageGeometry.of(height, width, 1024)
    logits = np.random.default_rng(0).normal(0, 5, size=(256, 256)).astype(np.float32)
    square = F.interpolate(torch.from_numpy(logits)[None, None], (1024, 1024), mode="bilinear", align_corners=False)
    cropped = square[..., : geometry.resized_height, : geometry.resized_width]
    reference = F.interpolate(cropped, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()

    ours = np.concatenate([band.copy() for _, band in upscale_bands(logits, geometry)])
    assert_allclose(ours, reference, atol=1e-5, rtol=0)
    assert_array_equal(ours > 0, reference > 0)

    # OpenCV keeps the scale in float64 where torch rounds it to float32, so that its weights drift along the image.
    opencv = cv2.resize(logits, (1024, 1024), interpolation=cv2.INTER_LINEAR)
    opencv = cv2.resize(opencv[: geometry.resized_height, : geometry.resized_width], (width, height))
    assert np.abs(opencv - reference).max() > 1e-4
    assert np.count_nonzero((opencv > 0) != (reference > 0)) > 0
