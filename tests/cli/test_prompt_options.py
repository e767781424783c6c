"""Prompts on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from samedge.cli.prompt_options import combine, parse_boxes, parse_points, read_mask
from samedge.errors import ImageError, PromptError, SamedgeError, StorageError, UsageError


@pytest.mark.parametrize(
    ("typed", "points", "labels"),
    [
        (["1,2"], [[1, 2]], [1]),
        (["1,2,0", "3,4,1"], [[1, 2], [3, 4]], [0, 1]),
        ([" 1 , 2 ,0 "], [[1, 2]], [0]),
        (["-1.5,2e2"], [[-1.5, 200]], [1]),
        ([], [], []),
    ],
)
def test_points(typed: list[str], points: list[list[float]], labels: list[int]) -> None:
    assert parse_points(typed) == (points, labels)


@pytest.mark.parametrize("typed", ["", "1", "1,2,3,4", "1;2", "one,two", "1,,2", "nan,1", "inf,1", "1,2,nan"])
def test_what_is_no_point(typed: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_points(["5,5", typed])
    assert str(caught.value) == (
        f"--point: invalid value {typed!r}. Write it like this: --point 400,300 or, beside the object, "
        "--point 400,300,0"
    )


@pytest.mark.parametrize("label", ["2", "-1", "0.5"])
def test_labels_are_0_or_1(label: str) -> None:
    with pytest.raises(UsageError, match=rf"--point: invalid label {label} in '1,2,{label}'\. Give 1 \(inside\)"):
        parse_points([f"1,2,{label}"])


def test_boxes() -> None:
    assert parse_boxes(["1,2,3,4", " -5, 6.5,7 ,8"]) == [[1, 2, 3, 4], [-5, 6.5, 7, 8]]


@pytest.mark.parametrize("typed", ["1,2,3", "1,2,3,4,5", "1 2 3 4", "a,b,c,d", "1,2,3,inf"])
def test_what_is_no_box(typed: str) -> None:
    with pytest.raises(UsageError, match=r"--box: invalid value .*\. Write it like this: --box 100,80,500,420"):
        parse_boxes([typed])


def test_a_mask_is_a_picture_or_logits(tmp_path: Path) -> None:
    drawn = np.zeros((20, 30, 3), np.uint8)
    drawn[5:9, 7:12, 1] = 3
    cv2.imwrite(str(tmp_path / "mask.png"), drawn)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), drawn.any(axis=2))
    logits = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    np.save(tmp_path / "logits.npy", logits)
    np.testing.assert_array_equal(read_mask(tmp_path / "logits.npy"), logits)


def test_what_is_no_mask(tmp_path: Path) -> None:
    np.save(tmp_path / "three.npy", np.zeros((1, 8, 8)))
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("text")
    (tmp_path / "text.png").write_text("text")
    cases: list[tuple[str, type[SamedgeError], str]] = [
        ("three.npy", PromptError, "the mask has 3 axes. Save one mask, (height, width)"),
        ("pickle.npy", PromptError, "cannot read the mask"),
        ("text.npy", PromptError, "cannot read the mask"),
        ("missing.npy", StorageError, "No such file"),
        ("text.png", ImageError, "the file is not an image"),
    ]
    for name, kind, message in cases:
        with pytest.raises(kind) as caught:
            read_mask(tmp_path / name)
        assert message in str(caught.value)
        assert name in str(caught.value)


POINTS, LABELS = [[1.0, 2.0], [3.0, 4.0]], [1, 0]
BOX, OTHER = [0.0, 0.0, 9.0, 9.0], [1.0, 1.0, 5.0, 5.0]
MASK = np.zeros((4, 4), np.float32)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        (([], [], [], [], False), {}),
        ((POINTS, LABELS, [], [], False), {"points": [POINTS], "labels": [LABELS]}),
        ((POINTS, LABELS, [BOX], [], False), {"points": [POINTS], "labels": [LABELS], "bboxes": [BOX]}),
        ((POINTS, LABELS, [], [], True), {"points": [[POINTS[0]], [POINTS[1]]], "labels": [[1], [0]]}),
        (
            (POINTS, LABELS, [BOX, OTHER], [], True),
            {"points": [[POINTS[0]], [POINTS[1]]], "labels": [[1], [0]], "bboxes": [BOX, OTHER]},
        ),
        (([], [], [BOX, OTHER], [], False), {"bboxes": [BOX, OTHER]}),
    ],
)
def test_what_belongs_together(given: tuple[Any, ...], prompts: dict[str, Any]) -> None:
    assert combine(*given) == prompts


def test_a_mask_belongs_to_the_points_of_the_command() -> None:
    prompts = combine(POINTS, LABELS, [], [MASK], False)
    assert (prompts["points"], prompts["masks"][0]) == ([POINTS], MASK)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((POINTS, LABELS, [BOX, OTHER], [], False), "--point: 2 boxes given, but all points describe one object"),
        ((POINTS, LABELS, [], [MASK, MASK], False), "--point: 2 masks given, but all points describe one object"),
        ((POINTS, LABELS, [BOX], [], True), "2 times --point and 1 times --box do not match. Give as many of each"),
        (([], [], [BOX, OTHER], [MASK], False), "2 times --box and 1 times --mask do not match"),
        (([], [], [BOX], [], True), "--each-point: no point given. Give --point as well"),
    ],
)
def test_what_does_not_belong_together(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        combine(*given)
    assert message in str(caught.value)
