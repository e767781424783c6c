"""The COCO annotation file, written from the manifest one record at a time.

Images are in natural order, so that a resumed run writes the same file as an uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from samedge.annotation.journal import Journal
from samedge.annotation.proposals import Category
from samedge.annotation.records import ImageRecord
from samedge.errors import storage_errors
from samedge.runtime.image.sources import natural_order
from samedge.storage.atomic import staged_file

COCO_NAME: Final = "annotations.coco.json"


def write_coco(folder: Path, journal: Journal, categories: Sequence[Category]) -> Path:
    """Write the file, without failed images, and return its path; unknown classes are named by their number."""
    path = folder / COCO_NAME
    images = sorted(journal.images, key=lambda name: natural_order(Path(name)))
    ids = {category.number: category.coco_id for category in categories}
    with staged_file(path) as stage, storage_errors(path), stage.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "Written by samedge annotate"},\n"licenses": [],\n"images": [')
        file.writelines(
            _items(
                {"id": number, "file_name": record.image, "width": record.width, "height": record.height}
                for number, record in _numbered(journal, images)
            )
        )
        file.write('],\n"annotations": [')
        file.writelines(_items(_annotations(_numbered(journal, images), ids)))
        file.write('],\n"categories": [')
        file.writelines(_items(_categories(categories, ids)))
        file.write("]}\n")
    return path


def _numbered(journal: Journal, images: list[str]) -> Iterator[tuple[int, ImageRecord]]:
    return enumerate(journal.records(images), 1)


def _items(values: Iterable[dict[str, Any]]) -> Iterator[str]:
    for at, value in enumerate(values):
        yield f"{',' if at else ''}\n{json.dumps(value)}"


def _annotations(records: Iterable[tuple[int, ImageRecord]], ids: dict[int, int]) -> Iterator[dict[str, Any]]:
    """Yield the objects of all images; classes missing from `ids` are added to it under their number."""
    number = 0
    for image_id, record in records:
        for item in record.objects:
            number += 1
            yield {
                "id": number,
                "image_id": image_id,
                "category_id": ids.setdefault(item.category, item.category),
                "segmentation": msgspec.to_builtins(item.rle),
                "bbox": [float(value) for value in item.box],
                "area": item.area,
                "iscrowd": 0,
                **({} if item.score is None else {"score": item.score}),
                "predicted_iou": item.predicted_iou,
                "proposal": item.proposal,
            }


def _categories(categories: Sequence[Category], ids: dict[int, int]) -> Iterator[dict[str, Any]]:
    known = {category.number for category in categories}
    unknown = [Category(number, ids[number], str(number)) for number in sorted(ids.keys() - known)]
    for category in (*categories, *unknown):
        yield {"id": category.coco_id, "name": category.name, "supercategory": ""}
