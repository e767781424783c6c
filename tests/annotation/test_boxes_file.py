"""Files of boxes: each form, which image an entry is for, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samedge.annotation.boxes_file import BoxesFile
from samedge.annotation.proposals import Category
from samedge.errors import ImageError, StorageError, UsageError


def opened(folder: Path, document: Any) -> BoxesFile:
    path = folder / "boxes.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return BoxesFile(path)


COCO = {
    "images": [
        {"id": 10, "file_name": "sub/a.jpg"},
        {"id": 11, "file_name": "b.jpg"},
        {"id": 12, "file_name": "c.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 10, "category_id": 90, "bbox": [1, 2, 10, 20]},
        {"id": 2, "image_id": 11, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5},
        {"id": 3, "image_id": 10, "category_id": 13, "bbox": [3, 3, 4, 4]},
        {"id": 4, "image_id": 10, "category_id": 13, "bbox": [0, 0, 99, 99], "iscrowd": 1},
    ],
    "categories": [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}],
}


def test_coco_annotations(tmp_path: Path) -> None:
    """Ids have gaps and begin at 1; numbers for YOLO do not, and COCO's file keeps the ids."""
    boxes = opened(tmp_path, COCO)
    assert boxes.categories == [Category(0, 1, "person"), Category(1, 13, "stop sign"), Category(2, 90, "brush")]
    found = boxes.boxes_of("sub/a.jpg")
    np.testing.assert_array_equal(found.boxes, [[1, 2, 11, 22], [3, 3, 7, 7]])
    assert found.classes.tolist() == [2, 1]
    assert np.isnan(found.scores).all()
    assert boxes.boxes_of("b.jpg").scores.tolist() == [0.5]
    assert len(boxes.boxes_of("c.jpg")) == 0
    assert len(boxes.boxes_of("unknown.jpg")) == 0


def test_coco_detections(tmp_path: Path) -> None:
    """Images go by number there: 000000000139.jpg is 139."""
    document = [
        {"image_id": 139, "category_id": 7, "bbox": [1, 1, 2, 2], "score": 0.9},
        {"image_id": "street", "category_id": 0, "bbox": [1, 1, 2, 2], "score": 0.8},
        {"image_id": 5, "file_name": "x/five.png", "category_id": 2, "bbox": [1, 1, 2, 2], "score": 0.7},
    ]
    boxes = opened(tmp_path, document)
    assert boxes.boxes_of("val/000000000139.jpg").classes.tolist() == [7]
    assert boxes.boxes_of("street.png").classes.tolist() == [0]
    assert boxes.boxes_of("x/five.png").scores.tolist() == [np.float32(0.7)]
    assert [category.number for category in boxes.categories] == [0, 2, 7]


@pytest.mark.parametrize(
    ("document", "classes", "names"),
    [
        ({"a.jpg": [[1, 2, 3, 4, 5]]}, [5], {5: "5"}),
        ({"a.jpg": [[1, 2, 3, 4, 5, 0.5], [1, 2, 3, 4, 1, None]]}, [5, 1], {1: "1", 5: "5"}),
        ({"names": ["cat", "dog"], "a.jpg": [[1, 2, 3, 4, "dog"], [1, 2, 3, 4, 0]]}, [1, 0], {0: "cat", 1: "dog"}),
        ({"names": {"3": "cow"}, "a.jpg": [{"box": [1, 2, 3, 4], "class": "cow"}]}, [3], {3: "cow"}),
        ({"b": [[1, 2, 3, 4, "dog"]], "a": [[1, 2, 3, 4, "zebra"]]}, [1], {0: "dog", 1: "zebra"}),
        ({".\\a.jpg": [{"box": [1, 2, 3, 4], "class": 2, "score": 1}]}, [2], {2: "2"}),
        ({"a.jpg": []}, [], {}),
        ({}, [], {}),
    ],
)
def test_simple_mappings(tmp_path: Path, document: Any, classes: list[int], names: dict[int, str]) -> None:
    boxes = opened(tmp_path, document)
    assert {category.number: category.name for category in boxes.categories} == names
    assert all(category.number == category.coco_id for category in boxes.categories)
    assert boxes.boxes_of("a.jpg").classes.tolist() == classes


def test_an_entry_is_for_one_image(tmp_path: Path) -> None:
    """A name without a folder could mean either of two images: the second is not given the boxes of the first."""
    boxes = opened(tmp_path, {"0.png": [[1, 2, 3, 4, 0]], "b/0.png": [[1, 2, 3, 4, 1]]})
    assert boxes.boxes_of("a/0.png").classes.tolist() == [0]
    assert boxes.boxes_of("a/0.png").classes.tolist() == [0]
    assert boxes.boxes_of("b/0.png").classes.tolist() == [1]
    with pytest.raises(ImageError, match=r"a single entry '0\.png' for this image and 'a/0\.png'"):
        boxes.boxes_of("c/0.png")


@pytest.mark.parametrize(
    "document",
    [
        "no json",
        "7",
        '{"a.jpg": [[1, 2, 3]]}',
        '{"a.jpg": [[1, 2, 3, 4, 0.5]]}',
        '{"a.jpg": [["x", 2, 3, 4, 0]]}',
        '{"a.jpg": 3}',
        '{"names": ["cat"], "a.jpg": [[1, 2, 3, 4, "dog"]]}',
        '[{"image_id": 1}]',
        json.dumps({**COCO, "images": []}),
        json.dumps({**COCO, "categories": [{"id": 1, "name": "person"}]}),
        "[" * 100_000,
    ],
)
def test_what_is_refused(tmp_path: Path, document: str) -> None:
    with pytest.raises(UsageError, match=r"boxes\.json: the boxes cannot be read"):
        opened(tmp_path, document)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        BoxesFile(tmp_path / "none.json")
