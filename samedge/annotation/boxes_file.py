"""Boxes from a JSON file: COCO annotations, COCO detections, or a simple mapping from image to boxes.

    {"images": [...], "annotations": [{"image_id": 7, "category_id": 3, "bbox": [x, y, w, h]}], "categories": [...]}
    [{"image_id": 139, "category_id": 3, "bbox": [x, y, w, h], "score": 0.9}, ...]
    {"names": ["cat", "dog"], "sub/a.jpg": [[x1, y1, x2, y2, 0], [x1, y1, x2, y2, 1, 0.9]], "b.jpg": [...]}

An image's boxes are looked up by its path in the folder, then by its name, by its stem, and by its stem read as a
number, which is the key in COCO detections.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from samedge.annotation.proposals import Category, Proposals, read_proposals
from samedge.errors import ImageError, UsageError
from samedge.storage.files import storage_errors

_CURE: Final = "Give COCO annotations or detections, or {image: [[x1, y1, x2, y2, class], ...]}"
_NAMES: Final = "names"


@dataclass(frozen=True, slots=True)
class _Box:
    corners: tuple[float, float, float, float]
    category: int | str
    score: float | None


@dataclass(frozen=True, slots=True)
class _Content:
    """Content of a file; `ranked` renumbers its classes for YOLO."""

    boxes: dict[str, list[_Box]]
    names: Mapping[int, str]
    ranked: bool


class BoxesFile:
    """The boxes of a file by image, all held in memory, and their classes, `categories`.

    Classes keep their numbers, unless a COCO file lists its categories: COCO ids start at 1 and have gaps, so they are
    renumbered for YOLO from 0, in the order of the ids.
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
            what = f"the boxes cannot be read: {type(error).__name__} {error}"
            raise UsageError(what, where=path, cure=_CURE) from error
        self._boxes = content.boxes
        self._owners: dict[str, str] = {}

    def boxes_of(self, name: str) -> Proposals:
        """Return the boxes of an image, given by its path in the folder; none if the file has no entry for it."""
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
        """Return the key of an image's entry, and reserve it for this image; ImageError if another has it."""
        path = PurePosixPath(name)
        keys = [name, path.name, path.stem]
        if path.stem.isdecimal():
            keys.append(str(int(path.stem)))
        key = next((key for key in keys if key in self._boxes), None)
        if key is None:
            return None
        owner = self._owners.setdefault(key, name)
        if owner != name:
            raise ImageError(
                f"the boxes file has a single entry {key!r} for this image and {owner!r}",
                where=name,
                cure="Use the images' paths in the folder as keys of the file",
            )
        return key


def _read(document: object) -> _Content:
    if isinstance(document, list):
        return _Content(_coco_detections(document), {}, ranked=False)
    if not isinstance(document, dict):
        raise TypeError(f"not a list or an object: {type(document).__name__}")
    if isinstance(document.get("images"), list) and isinstance(document.get("annotations"), list):
        categories = document.get("categories", [])
        names = {int(category["id"]): str(category["name"]) for category in categories}
        return _Content(_coco_annotations(document), names, ranked=bool(names))
    names = document.get(_NAMES, {})
    pairs = enumerate(names) if isinstance(names, list) else names.items()
    boxes = {_key(key): [_simple(entry) for entry in entries] for key, entries in document.items() if key != _NAMES}
    return _Content(boxes, {int(number): str(name) for number, name in pairs}, ranked=False)


def _coco_annotations(document: Mapping[str, Any]) -> dict[str, list[_Box]]:
    names = {image["id"]: _key(image["file_name"]) for image in document["images"]}
    boxes: dict[str, list[_Box]] = {name: [] for name in names.values()}
    for annotation in document["annotations"]:
        if annotation.get("iscrowd", 0) != 1:  # the box of a crowd does not enclose one object
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
            raise ValueError(f"invalid class {category!r}")
        category = int(category)
    return _Box((x1, y1, x2, y2), category, None if score is None else float(score))


def _key(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _numbered(content: _Content) -> tuple[list[Category], dict[int | str, int]]:
    """Return the classes, and the YOLO number of every class that a box refers to."""
    used = {box.category for entries in content.boxes.values() for box in entries}
    words = sorted(kind for kind in used if isinstance(kind, str))
    # Classes given only by name are numbered alphabetically.
    names = dict(content.names) or dict(enumerate(words))
    ids = sorted({*names, *(kind for kind in used if isinstance(kind, int))})
    if content.ranked and len(ids) > len(names):
        raise KeyError(f"no category has the id {next(number for number in ids if number not in names)}")
    number_of: dict[int | str, int] = {own: rank if content.ranked else own for rank, own in enumerate(ids)}
    for own, name in names.items():
        number_of.setdefault(name, number_of[own])
    unknown = [word for word in words if word not in number_of]
    if unknown:
        raise KeyError(f"no class is named {unknown[0]!r}")
    return [Category(number_of[own], own, names.get(own, str(own))) for own in ids], number_of
