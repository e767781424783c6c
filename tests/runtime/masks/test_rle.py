"""COCO RLE against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from pycocotools import mask as coco

from samedge.errors import UsageError
from samedge.runtime.masks.rle import (
    decode_rle,
    encode_rle,
    encode_rle_window,
    encode_uncompressed_rle,
    rle_area,
    rle_holds,
    rle_to_box,
    uncompress_rle,
)
from samedge.types import BoolArray

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


def _coco(mask: BoolArray) -> dict[str, Any]:
    encoded: dict[str, Any] = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return encoded


def _blobs(seed: int, height: int, width: int, discs: int) -> BoolArray:
    """Discs in a picture: long runs and empty margins, as masks of objects have them."""
    random = np.random.default_rng(seed)
    y, x = np.ogrid[:height, :width]
    mask = np.zeros((height, width), np.bool_)
    for _ in range(discs):
        centre_y, centre_x, radius = random.uniform(0, 1, 3) * (height, width, max(height, width) / 3)
        mask ^= np.hypot(y - centre_y, x - centre_x) < radius
    return mask


@given(MASKS)
def test_bytes_equal_pycocotools(mask: BoolArray) -> None:
    rle, theirs = encode_rle(mask), _coco(mask)
    assert rle["counts"].encode() == theirs["counts"]
    assert rle["size"] == theirs["size"]
    np.testing.assert_array_equal(decode_rle(theirs), mask)
    np.testing.assert_array_equal(decode_rle(rle), mask)


@given(MASKS)
def test_area_and_box_equal_pycocotools(mask: BoolArray) -> None:
    rle, theirs = encode_rle(mask), _coco(mask)
    assert rle_area(rle) == coco.area(theirs) == mask.sum()
    assert list(rle_to_box(rle)) == coco.toBbox(theirs).tolist()


@given(MASKS)
def test_uncompressed_form(mask: BoolArray) -> None:
    rle = encode_uncompressed_rle(mask)
    assert sum(rle["counts"]) == mask.size
    assert coco.frPyObjects([rle], *mask.shape)[0]["counts"] == _coco(mask)["counts"]
    np.testing.assert_array_equal(decode_rle(rle), mask)
    assert rle_area(rle) == mask.sum()


@given(st.integers(0, 2**32 - 1), st.integers(1, 1500), st.integers(1, 1500), st.integers(0, 4))
def test_large_masks_of_discs(seed: int, height: int, width: int, discs: int) -> None:
    mask = _blobs(seed, height, width, discs)
    rle = encode_rle(mask)
    assert rle["counts"].encode() == _coco(mask)["counts"]
    np.testing.assert_array_equal(decode_rle(rle), mask)
    assert list(rle_to_box(rle)) == coco.toBbox(_coco(mask)).tolist()


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (3000, 2000)])
def test_empty_and_full_masks(shape: tuple[int, int], fill: bool) -> None:
    mask = np.full(shape, fill)
    rle = encode_rle(mask)
    assert rle["counts"].encode() == _coco(mask)["counts"]
    assert rle_to_box(rle) == ((0, 0, shape[1], shape[0]) if fill else (0, 0, 0, 0))
    np.testing.assert_array_equal(decode_rle(rle), mask)


def test_known_text() -> None:
    mask = np.zeros((4, 5), np.bool_)
    mask[1:3, 2:4] = True
    assert encode_rle(mask) == {"size": [4, 5], "counts": "92203"}
    assert encode_uncompressed_rle(mask) == {"size": [4, 5], "counts": [9, 2, 2, 2, 5]}


def test_views_and_columns_first_arrays() -> None:
    mask = _blobs(3, 60, 90, 3)
    assert encode_rle(np.asfortranarray(mask)) == encode_rle(mask)
    assert encode_rle(mask[::2, ::-3]) == encode_rle(mask[::2, ::-3].copy())


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.uint8), np.zeros(4, np.bool_), np.zeros((1, 2, 2), np.bool_)])
def test_what_is_not_a_mask_is_refused(mask: NDArray[Any]) -> None:
    with pytest.raises(UsageError, match="dtype bool") as caught:
        encode_rle(mask)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rle", "says"),
    [
        ({}, "invalid RLE size None"),
        ({"size": [2], "counts": "4"}, "invalid RLE size"),
        ({"size": [2, 2]}, "invalid RLE counts of type NoneType"),
        ({"size": [2, 2], "counts": [1.5, 2.5]}, "of type list"),
        ({"size": [2, 2], "counts": [5]}, "sum up to 5"),
        ({"size": [2, 2], "counts": [-1, 5]}, "sum up to 4"),
        ({"size": [2, 2], "counts": ""}, "sum up to 0"),
        ({"size": [2, 2], "counts": "P"}, "not COCO's compressed text"),
        ({"size": [2, 2], "counts": " 4"}, "not COCO's compressed text"),
        ({"size": [2, 2], "counts": "é"}, "not COCO's compressed text"),
        ({"size": [2, 2], "counts": "P" * 13 + "0"}, "too long"),
    ],
)
def test_damaged_rle(rle: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        decode_rle(rle)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12))
def test_a_window_of_a_mask(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
    rows, columns = int(rng.integers(0, height - top + 1)), int(rng.integers(0, width - left + 1))
    window = rng.random((rows, columns)) < rng.random()
    mask = np.zeros((height, width), np.bool_)
    mask[top : top + rows, left : left + columns] = window
    assert encode_rle_window(window, top, left, (height, width)) == encode_rle(mask)
    assert uncompress_rle(encode_rle(mask)) == encode_uncompressed_rle(mask)
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    np.testing.assert_array_equal(rle_holds(encode_rle(mask), np.stack([x, y], axis=1)), mask[y, x])


@pytest.mark.parametrize(("top", "left"), [(-1, 0), (0, -1), (3, 0), (0, 4)])
def test_a_window_outside_of_its_mask(top: int, left: int) -> None:
    with pytest.raises(UsageError, match=r"a window of 2 x 3 px at \(-?\d, -?\d\) is not inside a mask of 5 x 5 px"):
        encode_rle_window(np.ones((3, 2), np.bool_), top, left, (5, 5))
