"""What to segment, as users say it, and the names of what is made of it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from samedge.errors import ImageError
from samedge.runtime.image.sources import distinct_stems, find_images, iter_sources


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_gives_its_images_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "b10.png", "b9.JPG", "b1.tif", "a.webp", "notes.txt", "b1.txt", "noending", "deeper/c.png")
    (tmp_path / "folder.png").mkdir()
    assert names(find_images(tmp_path)) == ["a.webp", "b1.tif", "b9.JPG", "b10.png"]


def test_the_order_is_the_same_wherever_the_names_differ(tmp_path: Path) -> None:
    """Leading zeros and digits that are no decimals must neither tie nor raise."""
    listed = ["a²3.png", "a1.png", "a01.png", "a001.png", "٣.png", "²."]
    touch(tmp_path, *listed)
    found = names(find_images(tmp_path))
    assert set(found) == {"a²3.png", "a1.png", "a01.png", "a001.png", "٣.png"}
    assert found[:3] == ["a001.png", "a01.png", "a1.png"]


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a1.png", "a2.png", "b.png", "deep/er/a3.png")
    assert names(find_images(tmp_path / "a*.png")) == ["a1.png", "a2.png"]
    assert names(find_images(tmp_path / "**" / "a?.png")) == ["a1.png", "a2.png", "a3.png"]
    assert names(find_images(tmp_path / "[ab]*")) == ["a1.png", "a2.png", "b.png"]
    monkeypatch.chdir(tmp_path)
    assert names(find_images(Path("a*.png"))) == ["a1.png", "a2.png"]


def test_a_file_with_the_signs_of_a_pattern_is_itself(tmp_path: Path) -> None:
    (path, _) = touch(tmp_path, "photo[1].png", "photo1.png")
    assert find_images(path) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "missing.png: image not found. Check the path"),
        ("*.png", "no images found"),
        (".", "no images found"),
        ("null\0byte.png", "image not found"),
    ],
)
def test_nothing_there(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        find_images(tmp_path / name)
    assert message in str(caught.value)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python 3.13 takes ** anywhere")
def test_a_pattern_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the pattern cannot be read"):
        find_images(tmp_path / "**a.png")


def test_lists_are_taken_apart_and_arrays_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "a1.png", "a2.png")
    array = np.zeros((2, 2, 3), np.uint8)
    found = list(iter_sources([array, str(tmp_path), tmp_path / "a1.png"]))
    assert found[0] is array
    assert found[1:] == [tmp_path / "a1.png", tmp_path / "a2.png", tmp_path / "a1.png"]
    assert list(iter_sources(array))[0] is array  # noqa: RUF015 - one item, not the first of several


@pytest.mark.parametrize(
    ("paths", "stems"),
    [
        (["a.png", "b.png"], ["a", "b"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),
        (["A.jpg", "a.png"], ["A.jpg", "a.png"]),
        (["x/a.png", "y/a.png", "z/a.png"], ["a.png", "a.png-2", "a.png-3"]),
        (["a.png", "a.jpg", "a.png.tif"], ["a.png", "a.jpg", "a.png-2"]),
        ([], []),
    ],
)
def test_names_of_what_is_made_never_meet(paths: list[str], stems: list[str]) -> None:
    assert distinct_stems([Path(path) for path in paths]) == stems


LITTER = ["._photo.png", ".DS_Store", ".hidden.png", "Thumbs.db", "desktop.ini"]


class TestLitter:
    """What systems leave behind in folders of images: AppleDouble files, thumbnails, check-points of notebooks."""

    def test_a_folder(self, tmp_path: Path) -> None:
        touch(tmp_path, "photo.png", *LITTER, "Thumbs.db.png")
        assert names(find_images(tmp_path)) == ["Thumbs.db.png", "photo.png"]

    def test_a_folder_of_litter_has_no_images(self, tmp_path: Path) -> None:
        touch(tmp_path, *LITTER)
        with pytest.raises(ImageError, match="no images found"):
            find_images(tmp_path)

    def test_a_list(self, tmp_path: Path) -> None:
        paths = touch(tmp_path, "photo.png", *LITTER)
        assert names([Path(path) for path in iter_sources([*paths])]) == ["photo.png"]  # type: ignore[arg-type]
        assert list(iter_sources([str(path) for path in paths])) == [paths[0]]
        with pytest.raises(ImageError, match="no images in the list"):
            list(iter_sources([str(path) for path in paths[1:]]))

    def test_a_recursive_pattern(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/photo.png", "a/.ipynb_checkpoints/photo-checkpoint.png", "__MACOSX/a/._photo.png")
        touch(tmp_path, "__MACOSX/a/other.png", *[f"a/{name}" for name in LITTER])
        assert names(find_images(tmp_path / "**" / "*")) == ["photo.png"]
        assert names(find_images(tmp_path / "*" / "*.png")) == ["photo.png"]

    def test_what_is_named_is_taken(self, tmp_path: Path) -> None:
        """A path, a folder and a pattern that begin with a dot were meant."""
        touch(tmp_path, ".cache/photo.png", ".cache/._photo.png", ".hidden.png")
        assert names(find_images(tmp_path / ".hidden.png")) == [".hidden.png"]
        assert names(find_images(tmp_path / ".cache")) == ["photo.png"]
        assert names(find_images(tmp_path / ".cache" / "*.png")) == ["photo.png"]
        assert names(find_images(tmp_path / ".h*")) == [".hidden.png"]
