"""Prompts in every shape that is allowed, and a sentence for every one that is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samedge.errors import PromptError
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.prompts.tokens import PromptBatch, parse_prompts
from samedge.types import FloatArray, IntArray

GEOMETRY = ImageGeometry.of(300, 400, 1024)  # resized to 768 x 1024: both scales are 2.56
SIDE = 256
LOGITS = np.random.default_rng(0).normal(0, 5, (SIDE, SIDE)).astype(np.float32)
DRAWN = np.zeros((300, 400), np.uint8)
DRAWN[100:200, 100:300] = 255


def parse(**prompts: Any) -> PromptBatch:
    return parse_prompts(GEOMETRY, SIDE, **prompts)


def tokens(batch: PromptBatch) -> list[tuple[list[list[float]], list[int]]]:
    """Coordinates in px of the original image and labels of each prompt, in the order given."""
    rows: dict[int, tuple[list[list[float]], list[int]]] = {}
    for group in batch.groups:
        for at, coords, labels in zip(group.index, group.coords, group.labels, strict=True):
            rows[int(at)] = (np.round(coords / 2.56, 3).tolist(), labels.tolist())
    assert sorted(rows) == list(range(batch.count))
    return [rows[at] for at in range(batch.count)]


PAD = [0.0, 0.0]
A, B, C = [10.0, 20.0], [30.0, 40.0], [399.0, 299.0]
BOX = [5.0, 6.0, 70.0, 80.0]
CORNERS = [[5.0, 6.0], [70.0, 80.0]]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({"points": A}, [([A, PAD], [1, -1])]),
        ({"points": A, "labels": 0}, [([A, PAD], [0, -1])]),
        ({"points": A, "labels": [0]}, [([A, PAD], [0, -1])]),
        ({"points": [A]}, [([A, PAD], [1, -1])]),
        ({"points": [A, B]}, [([A, PAD], [1, -1]), ([B, PAD], [1, -1])]),
        ({"points": [A, B], "labels": [1, 0]}, [([A, PAD], [1, -1]), ([B, PAD], [0, -1])]),
        ({"points": [A, B], "labels": [[1], [0]]}, [([A, PAD], [1, -1]), ([B, PAD], [0, -1])]),
        ({"points": [[A, B]]}, [([A, B, PAD], [1, 1, -1])]),
        ({"points": [[A, B]], "labels": [[1, 0]]}, [([A, B, PAD], [1, 0, -1])]),
        ({"points": [[A, B]], "labels": [1, 0]}, [([A, B, PAD], [1, 0, -1])]),
        (
            {"points": [[A, B], [B, C]], "labels": [[1, 0], [0, 1]]},
            [([A, B, PAD], [1, 0, -1]), ([B, C, PAD], [0, 1, -1])],
        ),
        ({"points": [[A, B], [C]]}, [([A, B, PAD], [1, 1, -1]), ([C, PAD], [1, -1])]),
        (
            {"points": [[A], [A, B, C], B], "labels": [[0], [1, 0, 1], 1]},
            [([A, PAD], [0, -1]), ([A, B, C, PAD], [1, 0, 1, -1]), ([B, PAD], [1, -1])],
        ),
        ({"points": [[A, [0, 0]], [B, C]], "labels": [[1, -1], [1, 0]]},
         [([A, PAD, PAD], [1, -1, -1]), ([B, C, PAD], [1, 0, -1])]),
        ({"boxes": BOX}, [(CORNERS, [2, 3])]),
        ({"boxes": [BOX, [0, 0, 400, 300]]}, [(CORNERS, [2, 3]), ([PAD, [400, 300]], [2, 3])]),
        ({"points": A, "boxes": BOX}, [([A, *CORNERS], [1, 2, 3])]),
        ({"points": [A], "labels": [0], "boxes": [BOX]}, [([A, *CORNERS], [0, 2, 3])]),
        ({"points": [[A, B]], "boxes": BOX}, [([A, B, *CORNERS], [1, 1, 2, 3])]),
        ({"points": [A, B], "boxes": [BOX, BOX]}, [([A, *CORNERS], [1, 2, 3]), ([B, *CORNERS], [1, 2, 3])]),
        (
            {"points": [[A, B], None, C], "boxes": [None, BOX, BOX]},
            [([A, B, PAD], [1, 1, -1]), (CORNERS, [2, 3]), ([C, *CORNERS], [1, 2, 3])],
        ),
        ({"points": [None, []], "boxes": [BOX, BOX]}, [(CORNERS, [2, 3]), (CORNERS, [2, 3])]),
        ({"points": [A, None], "labels": [0, None], "boxes": [None, BOX]}, [([A, PAD], [0, -1]), (CORNERS, [2, 3])]),
        ({"masks": LOGITS}, [([], [])]),
        ({"masks": [LOGITS, LOGITS], "points": [A, None]}, [([A, PAD], [1, -1]), ([], [])]),
        ({"masks": LOGITS, "boxes": BOX}, [(CORNERS, [2, 3])]),
        ({"boxes": [[-5, -6, 70, 80], [390, 290, 500, 301]]},
         [([PAD, [70, 80]], [2, 3]), ([[390, 290], [400, 300]], [2, 3])]),
        ({"boxes": [7, 7, 7, 7]}, [([[7, 7], [7, 7]], [2, 3])]),
        ({"points": [[0, 0], [400, 300]]}, [([PAD, PAD], [1, -1]), ([[400, 300], PAD], [1, -1])]),
        ({"points": np.array([A], np.float16), "labels": np.array([True])}, [([A, PAD], [1, -1])]),
        ({"boxes": np.empty((0, 4))}, []),
        ({"boxes": []}, []),
        ({"points": np.empty((0, 2))}, []),
        ({"points": [], "labels": []}, []),
        ({"points": np.empty((0, 3, 2)), "labels": np.empty((0, 3))}, []),
        ({"masks": np.empty((0, SIDE, SIDE), np.float32)}, []),
        ({"masks": []}, []),
    ],
)  # fmt: skip
def test_shapes_that_are_allowed(prompts: dict[str, Any], expected: list[tuple[Any, list[int]]]) -> None:
    batch = parse(**prompts)
    assert tokens(batch) == expected
    for group in batch.groups:
        assert group.coords.dtype == np.float32
        assert group.labels.dtype == np.int32
        assert group.coords.shape == (*group.labels.shape, 2)
        assert group.has_mask.dtype == np.float32
        assert len(group) == len(group.index) == len(group.has_mask)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, r"no prompt given\. Give points="),
        ({"labels": [1]}, r"labels were given without points"),
        ({"labels": [1], "boxes": BOX}, r"labels were given without points"),
        ({"points": [1, 2, 3]}, r"invalid points of shape \(3,\)\. Give \[x, y\]"),
        ({"points": [[1, 2, 3]]}, r"invalid points of shape \(1, 3\)"),
        ({"points": np.zeros((1, 1, 1, 2))}, r"invalid points of shape \(1, 1, 1, 2\)"),
        ({"points": 5}, r"invalid points of shape \(\)"),
        ({"points": "middle"}, r"points: not numbers"),
        ({"points": [["x", "y"]]}, r"points: not numbers"),
        ({"points": [A, [A, [1, 2, 3]]]}, r"points\[1\]: the entry is ragged"),
        ({"points": [A, [[1, 2, 3]]]}, r"points\[1\]: the entry has the shape \(1, 3\)"),
        ({"points": [A, [float("nan"), 1]]}, r"point 0 of prompt 1 is \(nan, 1\)"),
        ({"points": [[A, [1, float("inf")]]]}, r"point 1 of prompt 0 is \(1, inf\)"),
        ({"points": [A, [400.5, 1]]}, r"point 0 of prompt 1 is \(400\.5, 1\), outside the image of 400 x 300 px"),
        ({"points": [[[1, 1], [1, -0.1]]]}, r"point 1 of prompt 0 is \(1, -0\.1\), outside"),
        ({"points": [299, 399]}, r"outside the image of 400 x 300 px\. Give \(x, y\)"),
        ({"points": [None, A]}, r"prompt 0 is empty"),
        ({"points": np.zeros((2, 0, 2))}, r"prompt 0 is empty"),
        ({"points": [[]]}, r"prompt 0 is empty"),
        ({"points": [A, B], "labels": [1]}, r"1 labels for 2 points"),
        ({"points": [A, B], "labels": [1, 0, 1]}, r"3 labels for 2 points"),
        ({"points": A, "labels": [1, 0]}, r"2 labels for 1 points"),
        ({"points": [[A, B]], "labels": [[1]]}, r"1 labels for 2 points"),
        ({"points": [[A, B], [A, B]], "labels": [1, 0, 1, 0]}, r"\[1, 1, 1, 1\] labels for \[2, 2\] points"),
        ({"points": [[A, B], [C]], "labels": [[1], [1, 0]]}, r"\[1, 2\] labels for \[2, 1\] points"),
        ({"points": [A, None], "labels": [[1, 1], None], "boxes": [BOX, BOX]}, r"2 labels for 1 points"),
        ({"points": A, "labels": [[[1]]]}, r"invalid labels of shape \(1, 1, 1\)"),
        ({"points": A, "labels": "fg"}, r"labels: not numbers"),
        ({"points": [A, B], "labels": [1, 2]}, r"label of point 0 of prompt 1 is 2\. .*boxes="),
        ({"points": A, "labels": [0.5]}, r"label of point 0 of prompt 0 is 0\.5\. Give 1"),
        ({"points": A, "labels": [float("nan")]}, r"is nan"),
        ({"boxes": [1, 2, 3]}, r"invalid boxes of shape \(3,\)"),
        ({"boxes": [[[1, 2, 3, 4]]]}, r"invalid boxes of shape \(1, 1, 4\)"),
        ({"boxes": [[]]}, r"invalid boxes of shape \(1, 0\)"),
        ({"boxes": [BOX, [1, 2, 3]]}, r"boxes\[1\]: not a box"),
        ({"boxes": [BOX, None, [[1, 2, 3, 4]]]}, r"boxes\[2\]: not a box"),
        ({"boxes": "all"}, r"boxes: not numbers"),
        ({"boxes": [BOX, [1, 2, float("nan"), 4]]}, r"box 1 is \(1, 2, nan, 4\)"),
        ({"boxes": [50, 2, 3, 40]}, r"box 0 is \(50, 2, 3, 40\), which is inverted.*x1, y1, x2, y2"),
        ({"boxes": [BOX, [1, 50, 30, 40]]}, r"box 1 .*inverted"),
        ({"boxes": [401, 2, 500, 40]}, r"box 0 is \(401, 2, 500, 40\), outside the image of 400 x 300 px"),
        ({"boxes": [1, -20, 5, -1]}, r"box 0 .*outside"),
        ({"boxes": [None, BOX]}, r"prompt 0 is empty"),
        ({"points": [A, B], "boxes": BOX}, r"2 points and 1 boxes do not match\. To give one prompt several points"),
        ({"points": [A, B], "boxes": [BOX] * 3}, r"2 points and 3 boxes do not match\. Give one entry per prompt"),
        ({"points": A, "boxes": [BOX] * 3, "masks": LOGITS}, r"1 points and 3 boxes and 1 masks do not match"),
        (
            {"masks": np.zeros((300, 400), np.float32)},
            r"masks\[0\]: invalid logits of shape \(300, 400\)\. .*\(256, 256\)",
        ),
        ({"masks": [LOGITS, LOGITS[:-1]]}, r"masks\[1\]: invalid logits of shape \(255, 256\)"),
        ({"masks": np.full((SIDE, SIDE), np.nan)}, r"masks\[0\]: logits beyond 10000, or NaN"),
        ({"masks": np.full((SIDE, SIDE), 1e300)}, r"masks\[0\]: logits beyond 10000, or NaN"),
        ({"masks": DRAWN[1:]}, r"masks\[0\]: invalid mask shape \(299, 400\)\. .*uint8 \(300, 400\)"),
        ({"masks": np.ones((SIDE, SIDE), np.bool_)}, r"invalid mask shape \(256, 256\)"),
        ({"masks": DRAWN.astype(np.complex64)}, r"invalid mask dtype complex64"),
        ({"masks": np.ones(5)}, r"masks\[0\]: invalid logits of shape \(5,\)"),
        ({"masks": "photo.png"}, r"invalid mask dtype"),
        ({"masks": [[[1, 2], [3]]]}, r"the rows of a mask differ"),
        ({"masks": np.zeros((2, 3, SIDE, SIDE), np.float32)}, r"invalid logits of shape \(3, 256, 256\)"),
    ],
)
def test_what_is_not_allowed_is_named(prompts: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        parse(**prompts)
    assert "\n" not in str(caught.value)


def test_errors_carry_the_counts_and_the_index() -> None:
    with pytest.raises(PromptError) as caught:
        parse(points=[A, B], boxes=[BOX])
    assert (caught.value.facts["points"], caught.value.facts["boxes"]) == (2, 1)
    with pytest.raises(PromptError) as caught:
        parse(points=[A, B], labels=[1, 1, 1])
    assert (caught.value.facts["points"], caught.value.facts["labels"]) == (2, 3)
    with pytest.raises(PromptError) as caught:
        parse(boxes=[BOX, BOX, [9, 9, 8, 8]])
    assert caught.value.facts["index"] == 2


class TestMasks:
    def only_mask(self, masks: Any) -> FloatArray:
        batch = parse(masks=masks)
        (group,) = batch.groups
        assert group.masks is not None
        assert group.masks.dtype == np.float32
        assert (group.has_mask == 1).all()
        return group.masks

    @pytest.mark.parametrize(
        "masks",
        [
            LOGITS, LOGITS[None], LOGITS[None, None], [LOGITS], [LOGITS[None]], LOGITS.astype(np.float64),
            LOGITS.tolist(), [LOGITS.tolist()],
        ],
        ids=["h,w", "1,h,w", "1,1,h,w", "list", "list of 1,h,w", "float64", "numbers", "list of numbers"],
    )  # fmt: skip
    def test_logits_are_passed_on(self, masks: Any) -> None:
        np.testing.assert_array_equal(self.only_mask(masks), LOGITS[None])

    @pytest.mark.parametrize("masks", [DRAWN, DRAWN > 0, DRAWN.astype(np.int64), DRAWN // 255, [DRAWN], DRAWN[None]])
    def test_masks_of_the_image_become_logits(self, masks: Any) -> None:
        logits = self.only_mask(masks)[0]
        assert logits[int(150 * 0.64), int(200 * 0.64)] == 10
        assert logits[5, 5] == -10
        assert (logits[193:] == -10).all()

    def test_several_masks_keep_their_order(self) -> None:
        got = self.only_mask(np.stack([LOGITS, LOGITS * 2]))
        np.testing.assert_array_equal(got, np.stack([LOGITS, LOGITS * 2]))

    def test_logits_and_drawn_masks_may_be_mixed(self) -> None:
        got = self.only_mask([LOGITS, DRAWN])
        np.testing.assert_array_equal(got[0], LOGITS)
        assert got[1].max() == 10

    def test_prompts_with_and_without_a_mask_are_told_apart(self) -> None:
        batch = parse(points=[A, B, C], masks=[None, LOGITS, None])
        (group,) = batch.groups
        assert group.has_mask.tolist() == [0, 1, 0]
        assert group.masks is not None
        np.testing.assert_array_equal(group.masks[1], LOGITS)
        assert not group.masks[[0, 2]].any()

    def test_without_masks_there_is_no_array_of_them(self) -> None:
        assert parse(points=A).groups[0].masks is None


class TestGroups:
    def test_prompts_of_equally_many_tokens_are_together(self) -> None:
        # 1 point + padding, a box, 2 points + padding, a point and a box
        batch = parse(points=[[A], None, [A, B], C], boxes=[None, BOX, None, BOX])
        assert {group.labels.shape[1]: group.index.tolist() for group in batch.groups} == {2: [0, 1], 3: [2, 3]}

    @given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(1, 5))
    def test_chunks_hold_every_prompt_once_and_whole(self, sizes: list[int], chunk: int) -> None:
        points = [np.full((size, 2), at, np.float64) for at, size in enumerate(sizes)]
        batch = parse(points=points, masks=[LOGITS if at % 2 else None for at in range(len(sizes))])
        seen: dict[int, tuple[FloatArray, IntArray]] = {}
        for group in batch.groups:
            for part in group.chunks(chunk):
                assert 1 <= len(part) <= chunk
                assert len(part.has_mask) == len(part)
                for row, at in enumerate(part.index):
                    seen[int(at)] = (part.coords[row], part.labels[row])
                    assert part.has_mask[row] == at % 2
                    if at % 2:
                        assert part.masks is not None
                        np.testing.assert_array_equal(part.masks[row], LOGITS)
        assert sorted(seen) == list(range(len(sizes)))
        for at, size in enumerate(sizes):
            coords, labels = seen[at]
            np.testing.assert_allclose(coords[:-1], at * 2.56, rtol=1e-6)
            assert labels.tolist() == [1] * size + [-1]


@given(
    st.lists(
        st.tuples(st.floats(0, 400), st.floats(0, 300), st.sampled_from([0, 1])).map(list), min_size=1, max_size=30
    )
)
def test_any_points_inside_the_image_are_taken(rows: list[list[float]]) -> None:
    values = np.array(rows)
    batch = parse(points=values[:, :2], labels=values[:, 2])
    (group,) = batch.groups
    np.testing.assert_array_equal(group.coords[:, 0], (values[:, :2] * 2.56).astype(np.float32))
    assert group.labels[:, 0].tolist() == values[:, 2].tolist()
