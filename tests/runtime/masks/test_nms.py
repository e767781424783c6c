"""Suppression keeps what torchvision keeps, in the same order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import reference

from samedge.errors import UsageError
from samedge.runtime.masks.nms import batched_nms, box_ious, nms


def ops() -> Any:
    return reference.torchvision().ops


def drawn(seed: int, count: int, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes on whole numbers, so that equal ones and ones without area occur, with scores that are often equal."""
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.integers(0, side, (count, 2, 2)), axis=1).reshape(count, 4).astype(np.float32)
    return boxes, rng.integers(0, 12, count).astype(np.float32) / np.float32(12)


@given(st.integers(0, 10_000), st.integers(0, 60), st.integers(2, 40), st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0]))
def test_what_torchvision_keeps(seed: int, count: int, side: int, threshold: float) -> None:
    boxes, scores = drawn(seed, count, side)
    expected = ops().nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold).numpy()
    np.testing.assert_array_equal(nms(boxes, scores, threshold), expected)


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 5))
def test_groups_as_torchvision_has_them(seed: int, count: int, groups: int) -> None:
    boxes, scores = drawn(seed, count, 20)
    scores = (scores + np.random.default_rng(seed).random(count)).astype(np.float32)  # all different
    names = np.random.default_rng(seed).integers(0, groups, count)
    tensors = (torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(names))
    np.testing.assert_array_equal(batched_nms(boxes, scores, names, 0.5), ops().batched_nms(*tensors, 0.5).numpy())


def test_only_greater_ious_suppress() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)
    assert nms(boxes, np.array([0.5, 0.6]), 0.5).tolist() == [1, 0]
    assert nms(boxes, np.array([0.5, 0.6]), 0.499).tolist() == [1]


def test_boxes_without_area_stay() -> None:
    boxes = np.array([[3, 3, 3, 9], [3, 3, 3, 9], [0, 0, 0, 0]], np.float32)
    assert nms(boxes, np.array([0.1, 0.3, 0.2]), 0.5).tolist() == [1, 2, 0]


def test_nothing_gives_nothing() -> None:
    assert nms(np.zeros((0, 4)), np.zeros(0), 0.5).shape == (0,)
    assert batched_nms(np.zeros((0, 4)), np.zeros(0), np.zeros(0), 0.5).shape == (0,)


def test_ious_of_one_box_with_others() -> None:
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(box_ious(np.array([0, 0, 10, 10]), others), [1, 1 / 3, 0])


@pytest.mark.parametrize(("boxes", "scores"), [((3, 5), 3), ((3, 4), 2), ((4,), 1), ((2, 2, 4), 2)])
def test_shapes_that_do_not_belong_together(boxes: tuple[int, ...], scores: int) -> None:
    with pytest.raises(UsageError, match="boxes have the shape"):
        nms(np.ones(boxes), np.ones(scores), 0.5)


def test_groups_must_be_as_many_as_boxes() -> None:
    with pytest.raises(UsageError, match="2 boxes do not match 3 groups"):
        batched_nms(np.ones((2, 4)), np.ones(2), np.zeros(3), 0.5)
