"""``samedge annotate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.pictures import write_image
from support.program import Program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures and a broken one, and boxes for them."""
    root = tmp_path / "in"
    for number in range(3):
        write_image(root / f"{number}.png", number)
    write_image(root / "deep" / "0.png", 3)
    (root / "broken.jpg").write_bytes(b"no picture")
    boxes = {
        "names": ["cat", "dog"],
        "0.png": [[8, 16, 40, 48, "dog"], [100, 100, 120, 120, "cat"]],
        "1.png": [[8, 8, 20, 20, "cat", 0.3]],
        "deep/0.png": [[4, 4, 60, 60, 1, 0.9]],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return root


def labels_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.txt") if path.name != "classes.txt"]


def test_a_folder(program: Program, fake: Path, folder: Path) -> None:
    arguments = ("annotate", folder, "--det-model", folder.parent / "boxes.json", "--sam-model", fake)
    done = program(*arguments)
    output = folder.parent / "in_auto_annotate_labels"
    assert done.status == 1
    assert done.out == f"{output}\n"
    assert "skipped: broken.jpg: the file is not an image" in done.err
    assert "dropped: 0.png: box 1 of class 0 (100, 100, 120, 120): its box has no area in the image" in done.err
    assert "3 images with 3 objects, 1 without, 1 skipped" in done.err
    assert "5 of 5 images" in done.err
    assert done.err.splitlines()[-1].startswith(f"error: {folder}: 1 of 5 images were skipped")
    labels = {path.relative_to(output).as_posix(): path.read_text()[0] for path in labels_in(output)}
    assert labels == {"0.txt": "1", "1.txt": "0", "deep/0.txt": "1"}
    document = json.loads((output / "annotations.coco.json").read_text())
    assert [category["name"] for category in document["categories"]] == ["cat", "dog"]
    (folder / "broken.jpg").unlink()
    again = program(*arguments)
    assert again.status == 0
    assert "4 done by earlier runs" in again.err


def test_options(program: Program, fake: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.jpg").unlink()
    arguments = (
        "annotate",
        folder,
        "--det-model",
        tmp_path / "boxes.json",
        "--sam-model",
        fake,
        "-o",
        tmp_path / "out",
    )
    options = ("--conf", "0.5", "--class", "0", "--class", "1", "--no-recursive", "--workers", "1", "--parts", "all")
    done = program(*arguments, *options)
    assert done.status == 0
    assert sorted(path.name for path in labels_in(tmp_path / "out")) == ["0.txt"]
    refused = program(*arguments)
    assert refused.status == 1
    assert "conf was 0.5 and is 0.25" in refused.err
    assert len(refused.err.splitlines()) == 1
    restarted = program(*arguments, "--restart")
    assert restarted.status == 0
    assert len(labels_in(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    "options",
    [
        ("--parts", "some"),
        ("--holes", "keep"),
        ("--workers", "0"),
        ("--conf", "7"),
        ("--det-model", "none.json"),
        ("--det-model", "none.onnx"),
    ],
)
def test_what_means_nothing_is_one_line(program: Program, fake: Path, folder: Path, options: tuple[str, ...]) -> None:
    done = program("annotate", folder, "--det-model", folder.parent / "boxes.json", "--sam-model", fake, *options)
    assert done.status == 1
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("error: ")


def test_many_boxes_without_labels_are_not_all_named(program: Program, fake: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "0.png")
    (tmp_path / "boxes.json").write_text(json.dumps({"0.png": [[90, 90, 95, 95, 0]] * 30}))
    done = program("annotate", tmp_path / "in", "--det-model", tmp_path / "boxes.json", "--sam-model", fake)
    assert done.status == 0
    assert done.err.count("dropped: ") == 21
    assert "30 boxes have no label" in done.err
