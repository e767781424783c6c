"""Boxes from a JSON file: COCO's annotations, COCO's detections, or a simple mapping from image to boxes.

    {"images": [...], "annotations": [{"image_id": 7, "category_id": 3, "bbox": [x, y, w, h]}], "categories": [...]}
    [{"image_id": 139, "category_id": 3, "bbox": [x, y, w, h], "score": 0.9}, ...]
    {"names": ["cat", "dog"], "sub/a.jpg": [[x1, y1, x2, y2, 0], [x1, y1, x2, y2, 1, 0.9]], "b.jpg": [...]}

An image's boxes are looked for under its path in the folder, then under its name, its stem, and the number that its
stem is, as COCO's detections have it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from samedge.annotation.proposals import Category, Proposals, read_proposals
from samedge.errors import ImageError, UsageError, storage_errors

_CURE: Final = "Give COCO's annotations or detections, or {image: [[x1, y1, x2, y2, class], ...]}"
_NAMES: Final = "names"


@dataclass(frozen=True, slots=True)
class _Box:
    corners: tuple[float, float, float, float]
    category: int | str
    score: float | None


@dataclass(frozen=True, slots=True)
class _Content:
    """What a file says. ``ranked``: its classes are numbered anew for YOLO."""

    boxes: dict[str, list[_Box]]
    names: Mapping[int, str]
    ranked: bool


class BoxesFile:
    """The boxes of a file, by image. All of it is kept in memory.

    Classes keep their numbers. Only where a COCO file lists its categories are they numbered anew for YOLO, from 0 in
    the order of their ids, because those of COCO begin at 1 and have gaps.

    Args:
        path: The file.

    Attributes:
        categories: The classes.

    Raises:
        UsageError: The file is none of the three.
        StorageError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._where = str(path)
        with storage_errors(path, "read"):
            data = path.read_bytes()
        try:
            document: object = json.loads(data)
            content = _read(document)
            self.categories, self._number_of = _numbered(content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"the boxes cannot be read: {type(error).__name__} {error}", where=path, cure=_CURE
            ) from error
        self._boxes = content.boxes
        self._taken: dict[str, str] = {}

    def boxes_of(self, name: str) -> Proposals:
        """Return the boxes of an image; none where the file has no entry for it.

        Args:
            name: Path of the image in its folder, with slashes.

        Raises:
            ImageError: The entry has been taken for another image of the same name.
            UsageError: A box is none.
        """
        key = self.claim(name)
        entries = [] if key is None else self._boxes[key]
        return read_proposals(
            np.array([entry.corners for entry in entries], np.float32),
            [self._number_of[entry.category] for entry in entries],
            [entry.score for entry in entries],
            names={},
            where=f"{self._where}: {name}",
        )

    def claim(self, name: str) -> str | None:
        """Return the entry of an image, and let no other image of the same name have it.

        Raises:
            ImageError: Another image has it.
        """
        path = PurePosixPath(name)
        keys = [name, path.name, path.stem]
        if path.stem.isdecimal():
            keys.append(str(int(path.stem)))
        key = next((key for key in keys if key in self._boxes), None)
        if key is None:
            return None
        owner = self._taken.setdefault(key, name)
        if owner != name:
            raise ImageError(
                f"the boxes file has one entry {key!r} for this image and {owner!r}",
                where=name,
                cure="Name images in it by their paths in the folder",
            )
        return key


def _read(document: object) -> _Content:
    if isinstance(document, list):
        return _Content(_coco_detections(document), {}, ranked=False)
    if not isinstance(document, dict):
        raise TypeError(f"it is a {type(document).__name__}")
    if isinstance(document.get("images"), list) and isinstance(document.get("annotations"), list):
        categories = document.get("categories", [])
        names = {int(category["id"]): str(category["name"]) for category in categories}
        return _Content(_coco_annotations(document), names, ranked=bool(names))
    told = document.get(_NAMES, {})
    pairs = enumerate(told) if isinstance(told, list) else told.items()
    boxes = {_key(key): [_simple(entry) for entry in entries] for key, entries in document.items() if key != _NAMES}
    return _Content(boxes, {int(number): str(name) for number, name in pairs}, ranked=False)


def _coco_annotations(document: Mapping[str, Any]) -> dict[str, list[_Box]]:
    names = {image["id"]: _key(image["file_name"]) for image in document["images"]}
    boxes: dict[str, list[_Box]] = {name: [] for name in names.values()}
    for annotation in document["annotations"]:
        if annotation.get("iscrowd", 0) != 1:  # a crowd's box is no object's
            boxes[names[annotation["image_id"]]].append(_coco_box(annotation))
    return boxes


def _coco_detections(detections: list[Any]) -> dict[str, list[_Box]]:
    boxes: dict[str, list[_Box]] = {}
    for detection in detections:
        name = _key(str(detection.get("file_name", detection["image_id"])))
        boxes.setdefault(name, []).append(_coco_box(detection))
    return boxes


def _coco_box(entry: Mapping[str, Any]) -> _Box:
    x, y, width, height = (float(value) for value in entry["bbox"])
    score = entry.get("score")
    return _Box((x, y, x + width, y + height), int(entry["category_id"]), None if score is None else float(score))


def _simple(entry: Any) -> _Box:
    if isinstance(entry, Mapping):
        corners, category, score = entry["box"], entry["class"], entry.get("score")
    else:
        *corners, category, score = entry if len(entry) == 6 else [*entry, None]
    x1, y1, x2, y2 = (float(value) for value in corners)
    if not isinstance(category, str):
        if float(category) != int(category):
            raise ValueError(f"a class is {category!r}")
        category = int(category)
    return _Box((x1, y1, x2, y2), category, None if score is None else float(score))


def _key(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _numbered(content: _Content) -> tuple[list[Category], dict[int | str, int]]:
    """Return the classes, and the number for YOLO of each that a box names."""
    used = {box.category for entries in content.boxes.values() for box in entries}
    words = sorted(kind for kind in used if isinstance(kind, str))
    # Classes that are named and never numbered are numbered by the alphabet.
    names = dict(content.names) or dict(enumerate(words))
    ids = sorted({*names, *(kind for kind in used if isinstance(kind, int))})
    if content.ranked and len(ids) > len(names):
        raise KeyError(f"there is no category {next(number for number in ids if number not in names)}")
    number_of: dict[int | str, int] = {own: rank if content.ranked else own for rank, own in enumerate(ids)}
    for own, name in names.items():
        number_of.setdefault(name, number_of[own])
    unknown = [word for word in words if word not in number_of]
    if unknown:
        raise KeyError(f"there is no class {unknown[0]!r} among the names")
    return [Category(number_of[own], own, names.get(own, str(own))) for own in ids], number_of
