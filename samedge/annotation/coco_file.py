"""Files about all images, written when a run ends: COCO annotations, and the class names beside YOLO labels.

The COCO file is written from the manifest one record at a time. Images are in natural order, so that a resumed run
writes the same file as an uninterrupted one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np

from samedge.annotation.journal import Journal
from samedge.annotation.objects import MaskPolicy, outlines
from samedge.annotation.proposals import Category
from samedge.annotation.records import ImageRecord, RleRecord
from samedge.runtime.image.sources import natural_order
from samedge.runtime.masks.rle import decode_rle
from samedge.storage.atomic import staged_file
from samedge.storage.files import storage_errors

CocoSegmentation: TypeAlias = Literal["rle", "polygon"]

COCO_NAME: Final = "annotations.coco.json"
DATA_NAME: Final = "data.yaml"
CLASSES_NAME: Final = "classes.txt"
_MARK: Final = "# Written by samedge annotate; it is written again by the next run, unless this line is removed.\n"


def write_coco(
    folder: Path,
    journal: Journal,
    categories: Sequence[Category],
    policy: MaskPolicy,
    segmentation: CocoSegmentation = "rle",
) -> dict[int, str]:
    """Write the COCO file, without failed images, and return the names of its classes by number.

    Ids of categories start at 1: 0 is the background for Datumaro, CVAT and others, which drop it. Unknown classes are
    named by their number. A mask that no polygon can represent stays RLE.
    """
    path = folder / COCO_NAME
    images = sorted(journal.images, key=lambda name: natural_order(Path(name)))
    ids = _CategoryIds(categories)
    draw = partial(_polygons, policy=policy) if segmentation == "polygon" else msgspec.to_builtins
    with staged_file(path) as stage, storage_errors(path), stage.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "Written by samedge annotate"},\n"licenses": [],\n"images": [')
        file.writelines(
            _items(
                {"id": number, "file_name": record.image, "width": record.width, "height": record.height}
                for number, record in _numbered(journal, images)
            )
        )
        file.write('],\n"annotations": [')
        file.writelines(_items(_annotations(_numbered(journal, images), ids, draw)))
        file.write('],\n"categories": [')
        file.writelines(_items(ids.categories()))
        file.write("]}\n")
    return ids.names()


def _numbered(journal: Journal, images: list[str]) -> Iterator[tuple[int, ImageRecord]]:
    return enumerate(journal.records(images), 1)


def _items(values: Iterable[dict[str, Any]]) -> Iterator[str]:
    for at, value in enumerate(values):
        yield f"{',' if at else ''}\n{json.dumps(value)}"


def write_class_names(folder: Path, images: Path, names: Mapping[int, str], journal: Journal) -> None:
    """Write ``data.yaml`` and ``classes.txt`` beside YOLO labels; nothing if there is another ``data.yaml``.

    Args:
        folder: The folder of the labels.
        images: The folder of the images.
        names: Names of the classes by number; other numbers are named by themselves.
        journal: Whose labels may have the name of a file.
    """
    path = folder / DATA_NAME
    with storage_errors(path, "read"):
        if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(_MARK):
            return
    listed = [names.get(number, str(number)) for number in range(max(names, default=-1) + 1)]
    # JSON strings and lists are YAML.
    place = json.dumps(Path(os.path.relpath(images, folder)).as_posix())
    lines = [f"train: {place}", f"val: {place}", f"nc: {len(listed)}", "names:"]
    lines += [f"  {number}: {json.dumps(name)}" for number, name in enumerate(listed)]
    plain = "".join(f"{' '.join(name.split())}\n" for name in listed)
    files = {DATA_NAME: _MARK + "\n".join(lines) + "\n"}
    if not journal.has_label(CLASSES_NAME):
        files[CLASSES_NAME] = plain
    for name, text in files.items():
        with staged_file(folder / name) as stage, storage_errors(folder / name):
            stage.write_text(text, encoding="utf-8")


class _CategoryIds:
    """Ids of classes in the COCO file: those of a COCO file of boxes, and otherwise their number, counted from 1."""

    def __init__(self, categories: Sequence[Category]) -> None:
        own = all(category.coco_id == category.number for category in categories)
        self._shift = 1 if own else 0
        self._names = {category.number: category.name for category in categories}
        self._ids = {category.number: category.coco_id + self._shift for category in categories}
        for number, coco_id in self._ids.items():
            if coco_id < 1:
                self._ids[number] = max(self._ids.values()) + 1

    def of(self, number: int) -> int:
        """Return the id of a class, which is added if it is unknown."""
        if number not in self._ids:
            self._ids[number] = number + 1 if self._shift else max(self._ids.values()) + 1
        return self._ids[number]

    def names(self) -> dict[int, str]:
        """Return the names of all classes by number."""
        return {number: self._names.get(number, str(number)) for number in sorted(self._ids)}

    def categories(self) -> Iterator[dict[str, Any]]:
        """Yield the classes in the order of their numbers."""
        for number, name in self.names().items():
            yield {"id": self._ids[number], "name": name, "supercategory": ""}


def _polygons(rle: RleRecord, policy: MaskPolicy) -> Any:
    """Return a mask as COCO polygons, or as RLE where there are none."""
    mask = decode_rle({"size": rle.size, "counts": rle.counts})
    found = outlines(mask, replace(policy, parts="largest" if policy.parts == "largest" else "all"))
    return [np.round(outline, 2).reshape(-1).tolist() for outline in found] or msgspec.to_builtins(rle)


def _annotations(
    records: Iterable[tuple[int, ImageRecord]], ids: _CategoryIds, draw: Callable[[RleRecord], Any]
) -> Iterator[dict[str, Any]]:
    """Yield the objects of all images."""
    number = 0
    for image_id, record in records:
        for item in record.objects:
            number += 1
            yield {
                "id": number,
                "image_id": image_id,
                "category_id": ids.of(item.category),
                "segmentation": draw(item.rle),
                "bbox": [float(value) for value in item.box],
                "area": item.area,
                "iscrowd": 0,
                **({} if item.score is None else {"score": item.score}),
                "predicted_iou": item.predicted_iou,
                "proposal": item.proposal,
            }
