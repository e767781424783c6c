"""Masks from prototypes, against the two resizes of the whole image in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from samedge.errors import UsageError
from samedge.runtime.image.letterbox import Letterbox
from samedge.runtime.yolo.prototypes import draw_masks
from samedge.types import BoolArray, FloatArray


def whole_image(prototypes: FloatArray, coefficients: FloatArray, boxes: FloatArray, letterbox: Letterbox) -> BoolArray:
    """Enlarges to the input, cuts the padding off, resizes to the image, cuts to the box: all of it, for all pixels."""
    logits = torch.from_numpy(np.tensordot(coefficients, prototypes, 1))[None]
    size = (letterbox.input_height, letterbox.input_width)
    logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    rows = slice(letterbox.top, letterbox.top + letterbox.resized_height)
    columns = slice(letterbox.left, letterbox.left + letterbox.resized_width)
    size = (letterbox.height, letterbox.width)
    logits = F.interpolate(logits[..., rows, columns], size, mode="bilinear", align_corners=False)
    masks = logits[0].numpy() > 0
    y, x = np.mgrid[: letterbox.height, : letterbox.width]
    left, top, right, bottom = boxes.T[..., None, None]
    inside: BoolArray = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return masks & inside


# With these sizes half of the padding is whole in input pixels alone, so that the reference's way is the rule's.
@pytest.mark.parametrize(("height", "width"), [(517, 333), (409, 540), (57, 40), (90, 700), (333, 517)])
def test_masks_are_those_of_the_whole_image(height: int, width: int) -> None:
    letterbox = Letterbox.of(height, width, 320, 320, rect=False)
    rng = np.random.default_rng(height)
    prototypes = rng.normal(size=(8, 80, 80)).astype(np.float32)
    prototypes = np.asarray(F.avg_pool2d(torch.from_numpy(prototypes)[None], 9, 1, 4)[0].numpy(), np.float32)
    coefficients = rng.normal(size=(12, 8)).astype(np.float32)
    corners = np.sort(rng.uniform(0, 1, (12, 2, 2)), axis=1).reshape(12, 4) * np.array([width, height] * 2)
    boxes = corners.astype(np.float32)
    boxes[0] = 0, 0, width, height
    ours = draw_masks(prototypes, coefficients, boxes, letterbox)
    theirs = whole_image(prototypes, coefficients, boxes, letterbox)
    assert theirs.any((1, 2)).sum() > 8
    both, either = (ours & theirs).sum((1, 2)), (ours | theirs).sum((1, 2))
    assert (both[either > 0] / either[either > 0]).min() > 0.985
    assert (ours != theirs).mean() < 1e-3


def test_a_mask_fills_its_box_and_nothing_else() -> None:
    letterbox = Letterbox.of(100, 100, 64, 64, rect=False)
    boxes = np.array([[10.2, 20, 30, 40.7], [0, 0, 100, 100], [50, 50, 50, 60], [99.5, 0, 100, 100]], np.float32)
    masks = draw_masks(np.ones((1, 16, 16), np.float32), np.ones((4, 1), np.float32), boxes, letterbox)
    assert masks.dtype == np.bool_
    assert np.argwhere(masks[0]).min(0).tolist() == [20, 11]
    assert np.argwhere(masks[0]).max(0).tolist() == [40, 29]
    assert masks[0].sum() == 21 * 19
    assert masks[1].all()
    assert not masks[2:].any()


def test_large_images_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    letterbox = Letterbox.of(120, 90, 64, 64, rect=True)
    rng = np.random.default_rng(0)
    small = (letterbox.input_height // 4, letterbox.input_width // 4)
    prototypes, weights = rng.normal(size=(3, *small)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)
    boxes = np.array([[0, 0, 90, 120], [7, 30, 80, 110]], np.float32)
    whole = draw_masks(prototypes, weights, boxes, letterbox)
    monkeypatch.setattr("samedge.runtime.yolo.prototypes._TILE", 17)
    assert (draw_masks(prototypes, weights, boxes, letterbox) != whole).mean() < 1e-3


def test_no_boxes() -> None:
    letterbox = Letterbox.of(10, 20, 64, 64, rect=True)
    empty = np.zeros((0, 3), np.float32), np.zeros((0, 4), np.float32)
    assert draw_masks(np.zeros((3, 8, 16), np.float32), *empty, letterbox).shape == (0, 10, 20)


def test_more_masks_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    letterbox = Letterbox.of(10, 20, 64, 64, rect=True)
    monkeypatch.setattr("samedge.runtime.yolo.prototypes.np.zeros", full)
    with pytest.raises(UsageError, match="2 masks of 20 x 10 px"):
        draw_masks(np.ones((1, 8, 16), np.float32), np.ones((2, 1), np.float32), np.ones((2, 4), np.float32), letterbox)
