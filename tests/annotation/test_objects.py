"""What becomes of parts and holes in labels, filled as readers of YOLO's labels fill them; RLE keeps them all."""

from __future__ import annotations

from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samedge.annotation.objects import LabelHoles, LabelParts, MaskPolicy, label_line, mask_forms
from samedge.runtime.masks.polygons import mask_shapes, mask_to_polygons
from samedge.runtime.masks.rle import Rle, decode_rle
from samedge.types import BoolArray, FloatArray
from tools.train_sam_demo.families import TRAIN_FAMILIES


def filled(polygons: list[FloatArray], shape: tuple[int, ...]) -> BoolArray:
    """As the peers fill a polygon of a label: by the even-odd rule, with its edge."""
    canvas = np.zeros(shape, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [np.rint(polygon).astype(np.int32)], (1,))
    return canvas.astype(np.bool_)


def overlap(one: BoolArray, other: BoolArray) -> float:
    return float((one & other).sum() / (one | other).sum())


def ring_and_bar() -> BoolArray:
    """A ring with a bar in its hole, and a block beside it."""
    mask = np.zeros((80, 120), np.bool_)
    mask[10:70, 10:70] = True
    mask[25:55, 25:55] = False
    mask[35:45, 30:50] = True
    mask[20:40, 90:110] = True
    return mask


def without_bar() -> BoolArray:
    mask = ring_and_bar()
    mask[35:45, 30:50] = False
    return mask


def test_shapes() -> None:
    (ring, holes), (block, none), (bar, _) = mask_shapes(ring_and_bar())
    assert (ring.min(), ring.max()) == (10, 69)
    assert [(hole.min(), hole.max()) for hole in holes] == [(24, 55)]
    assert none == []
    assert block[:, 0].min() == 90
    assert bar[:, 1].min() == 35


@pytest.mark.parametrize("parts", get_args(LabelParts))
@pytest.mark.parametrize("holes", get_args(LabelHoles))
def test_policies(parts: LabelParts, holes: LabelHoles) -> None:
    mask = ring_and_bar()
    forms = mask_forms(mask, MaskPolicy(parts, holes))
    np.testing.assert_array_equal(decode_rle(Rle(size=[*forms.rle.size], counts=forms.rle.counts)), mask)
    assert forms.area == mask.sum()
    assert forms.box == (10, 10, 100, 60)
    if holes == "drop":
        assert forms.polygons == []
        return
    # Filled holes swallow what lies in them, so that there are two parts then.
    count = {"bridge": 1, "largest": 1, "all": 2 if holes == "fill" else 3}[parts]
    assert len(forms.polygons) == count
    wanted = mask.copy()
    if holes == "fill":
        wanted[10:70, 10:70] = True
    if parts == "largest":
        wanted[:, 80:] = False
        wanted[35:45, 30:50] = holes == "fill"
    assert overlap(filled(forms.polygons, mask.shape), wanted) > 0.98


def test_a_mask_without_holes_is_not_dropped() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[5:30, 5:30] = True
    assert len(mask_forms(mask, MaskPolicy(holes="drop")).polygons) == 1


def test_small_parts_and_holes() -> None:
    mask = without_bar()
    mask[0, 0] = True
    mask[12, 12] = False
    forms = mask_forms(mask, MaskPolicy("all", "bridge", min_area=10))
    assert len(forms.polygons) == 2
    assert forms.area == without_bar().sum()
    assert mask_forms(mask, MaskPolicy("all", "drop", min_area=10_000)).polygons != []


def test_an_empty_mask() -> None:
    forms = mask_forms(np.zeros((7, 9), np.bool_), MaskPolicy(min_area=5))
    assert (forms.area, forms.box, forms.polygons) == (0, (0, 0, 0, 0), [])


@given(st.sampled_from(sorted(TRAIN_FAMILIES)), st.integers(0, 10_000))
def test_bridges_keep_shapes_with_holes(family: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = TRAIN_FAMILIES[family](rng, 160, rng.uniform(50, 110, 2), float(rng.uniform(20, 60))) > 127
    if mask.sum() < 100:
        return
    polygons = mask_to_polygons(mask, "merge", "bridge")
    assert len(polygons) == 1
    # But for the bridges themselves, which are drawn one pixel wide, the polygon is the mask.
    bridges = sum(len(holes) + 1 for _, holes in mask_shapes(mask)) - 1
    wrong = int((filled(polygons, mask.shape) ^ mask).sum())
    assert wrong <= bridges * 160
    if bridges == 0:
        assert wrong == 0


def test_a_line_goes_there_and_back() -> None:
    (polygon,) = mask_forms(without_bar()[:, :80], MaskPolicy()).polygons
    category, *shares = label_line(12, polygon, 80, 80).split(" ")
    assert category == "12"
    np.testing.assert_allclose(np.array(shares, float).reshape(-1, 2) * 80, polygon, atol=1e-3)
    assert all(0 <= float(share) <= 1 for share in shares)
