"""The fake predictor draws its prompts, so that applications can be tested without a model."""

from __future__ import annotations

import numpy as np
import pytest

from samedge.errors import UsageError
from samedge.runtime.predictor import Predictor
from samedge.testing.predictor import fake_predictor


@pytest.fixture
def predictor() -> Predictor:
    predictor = fake_predictor(image_size=256)
    predictor.set_image(np.zeros((256, 512, 3), np.uint8))
    return predictor


def test_a_box_is_filled(predictor: Predictor) -> None:
    prediction = predictor.predict(boxes=[64, 32, 256, 128])
    (mask,) = prediction.masks
    expected = np.zeros_like(mask)
    expected[32:128, 64:256] = True
    assert prediction.boxes.tolist() == [[64, 32, 255, 127]]
    # Upscaling a quarter of the resolution rounds the four corners off by a few pixels each.
    assert np.count_nonzero(mask != expected) <= 4 * 6


def test_a_point_is_a_disc_and_a_background_point_cuts_one_out(predictor: Predictor) -> None:
    disc, cut = predictor.predict(
        points=[[[256, 128], [1, 1]], [[256, 128], [280, 128]]], labels=[[1, 1], [1, 0]]
    ).masks
    assert disc[128, 256]
    assert disc[128, 256 + 56]
    assert not disc[128, 256 + 80]
    assert not cut[128, 280]
    assert cut[128, 256 - 56]


def test_a_mask_is_kept(predictor: Predictor) -> None:
    drawn = np.zeros((256, 512), np.uint8)
    drawn[64:128, 64:256] = 1
    (mask,) = predictor.predict(masks=drawn).masks
    assert np.count_nonzero(mask != (drawn > 0)) <= 64 * 3


def test_it_sees_the_image(predictor: Predictor) -> None:
    dark = predictor.image_embedding
    predictor.set_image(np.full((256, 512, 3), 255, np.uint8))
    assert predictor.image_embedding.mean() > dark.mean()


@pytest.mark.parametrize("size", [0, -16, 100])
def test_sizes_that_make_no_grid_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match=rf"invalid image_size {size}"):
        fake_predictor(image_size=size)
