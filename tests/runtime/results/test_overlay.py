"""Drawing: colours inside masks, nothing outside, every size of image, pictures in files."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from samedge.errors import PromptError, SamedgeError, StorageError, UsageError
from samedge.runtime.results.overlay import (
    BACKGROUND,
    FOREGROUND,
    draw_box,
    draw_label,
    draw_mask_overlay,
    draw_prompts,
    instance_colour,
    write_image,
)
from samedge.types import ImageArray

GREY = 100
COLOUR = (200, 0, 50)


def canvas(height: int = 60, width: int = 80) -> ImageArray:
    return np.full((height, width, 3), GREY, np.uint8)


def test_blends_inside_the_mask_and_nowhere_else() -> None:
    mask = np.zeros((60, 80), np.bool_)
    mask[10:40, 20:70] = True
    mask[20:30, 30:40] = False
    picture = canvas()
    draw_mask_overlay(picture, mask, COLOUR, alpha=0.25, line_width=0)
    assert (picture[mask] == [125, 75, 88]).all()  # rint(100 * 0.75 + colour * 0.25); halves to even
    assert (picture[~mask] == GREY).all()


def test_contours_of_parts_and_holes() -> None:
    mask = np.zeros((60, 80), np.bool_)
    mask[10:40, 20:70] = True
    mask[20:30, 30:40] = False
    picture = canvas()
    draw_mask_overlay(picture, mask, COLOUR, alpha=0, line_width=1)
    assert (np.abs(picture[10, 21:69].astype(int) - COLOUR) < 20).all()  # lines are antialiased
    assert (np.abs(picture[25, 29].astype(int) - COLOUR) < 20).all()  # the pixel left of the hole
    assert (picture[15, 22:28] == GREY).all()
    assert (picture[25, 33:37] == GREY).all()


def test_an_empty_mask_changes_nothing() -> None:
    picture = canvas()
    draw_mask_overlay(picture, np.zeros((60, 80), np.bool_), COLOUR)
    assert (picture == GREY).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 2)])
def test_tiny_images(size: tuple[int, int]) -> None:
    picture = canvas(*size)
    draw_mask_overlay(picture, np.ones(size, np.bool_), COLOUR)
    assert (picture != GREY).any(axis=2).all()
    draw_box(picture, np.array([0, 0, size[1] - 1, size[0] - 1]), COLOUR)
    draw_label(picture, "a long label 0.99", np.array([0, 0]), COLOUR)
    assert picture.shape == (*size, 3)
    assert draw_prompts(picture, points=[0, 0], boxes=[0, 0, size[1], size[0]]).shape == (*size, 3)


def test_a_large_image_needs_little_more_than_itself() -> None:
    picture = np.zeros((10_000, 10_000, 3), np.uint8)
    mask = np.zeros((10_000, 10_000), np.bool_)
    mask[10:9_990, 20:9_000] = True
    tracemalloc.start()
    draw_mask_overlay(picture, mask, COLOUR, line_width=0)
    draw_box(picture, np.array([20, 10, 8_999, 9_989]), COLOUR)
    draw_label(picture, "0 0.95", np.array([20, 10]), COLOUR)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16e6
    assert picture[5_000, 5_000].any()
    assert not picture[5_000, 9_500].any()


def test_labels_are_readable_and_stay_inside() -> None:
    for colour, ink in (((0, 0, 0), 255), ((255, 255, 255), 0)):
        picture = canvas()
        draw_label(picture, "7 0.90", np.array([70, 58]), colour, font_size=12)
        changed = np.argwhere((picture != GREY).any(axis=2))
        assert changed.max(axis=0).tolist() == [57, 79]  # pushed left, and above its point
        assert (np.abs(picture.astype(int) - ink) < 100).all(axis=2).sum() > 10
        assert (picture == colour).all(axis=2).sum() > 30


def test_a_label_without_room_above_lies_below() -> None:
    picture = canvas()
    draw_label(picture, "1", np.array([5, 0]), COLOUR, font_size=10)
    changed = np.argwhere((picture != GREY).any(axis=2))
    assert changed.min(axis=0).tolist() == [0, 5]


def test_a_font_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read this") as caught:
        draw_label(canvas(), "1", np.array([5, 0]), COLOUR, font=str(tmp_path / "none.ttf"))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_font(tmp_path: Path) -> None:
    path = tmp_path / "text.ttf"
    path.write_text("no font")
    with pytest.raises(StorageError, match="unknown file format"):
        draw_label(canvas(), "1", np.array([5, 0]), COLOUR, font=str(path))


def test_colours_of_neighbours_differ() -> None:
    colours = np.array([instance_colour(index) for index in range(60)], int)
    assert len(np.unique(colours, axis=0)) == 60
    assert (np.abs(np.diff(colours, axis=0)).max(axis=1) > 60).all()
    assert colours.min() >= 0
    assert colours.max() <= 255


def test_prompts() -> None:
    image = canvas(200, 200)
    picture = draw_prompts(
        image, points=[[[50, 60], [100, 60], [150, 60]]], labels=[[1, 0, -1]], boxes=[10, 20, 190, 180]
    )
    assert (image == GREY).all()
    assert tuple(picture[60, 50]) == FOREGROUND
    assert tuple(picture[60, 100]) == BACKGROUND
    assert tuple(picture[60, 150]) == (GREY, GREY, GREY)
    assert (picture[60, 50 - 6 : 50 + 7] == 255).all(axis=1).any()  # the rim
    assert (picture[100, 10] != GREY).any()
    assert (draw_prompts(image) == GREY).all()


def test_prompts_of_single_points() -> None:
    picture = draw_prompts(canvas(200, 200), points=[[50, 60], [100, 60]], labels=[0, 1])
    assert tuple(picture[60, 50]) == BACKGROUND
    assert tuple(picture[60, 100]) == FOREGROUND


def test_prompts_that_no_predictor_takes() -> None:
    with pytest.raises(PromptError, match="labels"):
        draw_prompts(canvas(), points=[[1, 2], [3, 4]], labels=[1])
    with pytest.raises(PromptError, match="nan"):
        draw_prompts(canvas(), points=[[1, np.nan]])
    with pytest.raises(PromptError, match="shape"):
        draw_prompts(canvas(), boxes=[[1, 2, 3]])


@pytest.mark.parametrize("name", ["picture.png", "new/folders/bild ü.PNG", "picture.bmp"])
def test_pictures_come_back(tmp_path: Path, name: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    write_image(tmp_path / name, picture)
    data = np.fromfile(tmp_path / name, np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(data, cv2.IMREAD_COLOR), picture)


@pytest.mark.parametrize("name", ["picture", "picture.xyz", ".png"])
def test_formats_that_are_not_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="unknown image format") as caught:
        write_image(tmp_path / name, canvas())
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_picture_too_large_for_its_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too large for this format"):
        write_image(tmp_path / "wide.jpg", np.zeros((1, 70_000, 3), np.uint8))
    write_image(tmp_path / "wide.png", np.zeros((1, 70_000, 3), np.uint8))


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "picture.png", tmp_path / "folder.png"):
        with pytest.raises(StorageError) as caught:
            write_image(path, canvas())
        assert "\n" not in str(caught.value)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullFile:
        def __init__(self, path: Path) -> None:
            self.path = path

        def __enter__(self) -> FullFile:
            self.path.touch()
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, _: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda self, _mode: FullFile(self))
    with pytest.raises(SamedgeError, match="No space left") as caught:
        write_image(tmp_path / "picture.png", canvas())
    assert isinstance(caught.value, StorageError)
    assert not (tmp_path / "picture.png").exists()
