"""Which images a name stands for, in which order, and where their labels go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from samedge.annotation.image_set import ImageSet
from samedge.errors import ImageError, StorageError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set.v2"
    for name in (
        "10.jpg", "2.jpg", "b/1.png", "b/1.jpg", "b/deep/x.tif", "a/2.JPG", "a/notes.txt",
        ".hidden/1.jpg", "a/.cache/1.jpg",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def names(images: ImageSet) -> list[str]:
    return [entry.name for entry in images]


def test_a_folder(folder: Path) -> None:
    images = ImageSet(folder, recursive=True)
    assert names(images) == ["2.jpg", "10.jpg", "a/2.JPG", "b/1.jpg", "b/1.png", "b/deep/x.tif"]
    assert [entry.label for entry in images] == [
        "2.txt", "10.txt", "a/2.txt", "b/1.jpg.txt", "b/1.png.txt", "b/deep/x.txt",
    ]  # fmt: skip
    assert images.count() == 6
    assert all(entry.path == folder / entry.name for entry in images)
    assert images.default_output == folder.parent / "set_auto_annotate_labels"


def test_a_folder_alone(folder: Path) -> None:
    assert names(ImageSet(str(folder), recursive=False)) == ["2.jpg", "10.jpg"]


def test_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "a")
    images = ImageSet(".", recursive=True)
    assert names(images) == ["2.JPG"]
    assert images.default_output == folder / "a_auto_annotate_labels"


def test_an_image(folder: Path) -> None:
    images = ImageSet(folder / "a" / "2.JPG", recursive=True)
    assert [(entry.name, entry.label) for entry in images] == [("2.JPG", "2.txt")]
    assert images.default_output == folder / "a" / "2_auto_annotate_labels"


def test_a_pattern(folder: Path) -> None:
    images = ImageSet(folder / "**" / "*.jpg", recursive=True)
    assert set(names(images)) >= {"2.jpg", "10.jpg", "b/1.jpg"}
    assert images.root == folder
    assert images.default_output == folder.parent / "set_auto_annotate_labels"


def test_a_list(folder: Path) -> None:
    images = ImageSet([folder / "b" / "1.jpg", str(folder / "a"), folder / "b" / "1.jpg"], recursive=True)
    assert [(entry.name, entry.label) for entry in images] == [("a/2.JPG", "a/2.txt"), ("b/1.jpg", "b/1.txt")]
    assert images.root == folder
    assert names(ImageSet([folder / "b"], recursive=True)) == ["1.jpg", "1.png", "deep/x.tif"]
    assert names(ImageSet([folder / "b"], recursive=False)) == ["1.jpg", "1.png"]


def test_links_to_folders_are_not_followed(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    assert ImageSet(folder, recursive=True).count() == 6


@pytest.mark.parametrize("data", [3, None, [3], b"x"])
def test_what_is_no_path(data: object) -> None:
    with pytest.raises(UsageError, match="has no file name"):
        ImageSet(data, recursive=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["https://host/photos/a.jpg", "rtsp://host/live"])
def test_addresses_and_videos_are_refused_in_words(address: str, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"frames")
    for data, name in ((address, address), ([address], address), (Path(address), address), (clip, str(clip))):
        with pytest.raises(ImageError, match="only files of images are read here") as caught:
            ImageSet(data, recursive=True)
        assert caught.value.where == name


def test_none(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        ImageSet([], recursive=True)
    with pytest.raises(ImageError, match="no images found"):
        ImageSet(tmp_path, recursive=True).count()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read(folder: Path) -> None:
    (folder / "b").chmod(0)
    try:
        with pytest.raises(StorageError):
            ImageSet(folder, recursive=True).count()
    finally:
        (folder / "b").chmod(0o755)
