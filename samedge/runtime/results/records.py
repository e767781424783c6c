"""Results as records and files: dictionaries, JSON, CSV, DataFrames, COCO annotations, YOLO text, crops."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from samedge.errors import MissingExtraError
from samedge.runtime.image.read import as_bgr
from samedge.runtime.masks.polygons import Parts
from samedge.runtime.masks.rle import rle_area, rle_to_box
from samedge.runtime.results.masks import Objects
from samedge.storage.files import storage_errors
from samedge.tables import csv_text


def summary(results: Objects, *, normalize: bool, decimals: int) -> list[dict[str, Any]]:
    """Return one record per object; see `Results.summary`."""
    if results.boxes is None:
        return []
    height, width = results.orig_shape
    scale = (width, height) if normalize else (1, 1)
    rows: list[dict[str, Any]] = []
    for box, score, index in zip(results.boxes.xyxy, results.boxes.conf, results.boxes.cls.astype(int), strict=True):
        corners = (box.astype(np.float64) / [*scale, *scale]).round(decimals).tolist()
        rows.append(
            {
                "name": results.name_of(int(index)),
                "class": int(index),
                "confidence": round(float(score), decimals),
                "box": dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)),
            }
        )
    if results.masks is not None:
        for row, polygon in zip(rows, results.masks.xy, strict=True):
            x, y = (polygon.astype(np.float64) / scale).round(decimals).T
            row["segments"] = {"x": x.tolist(), "y": y.tolist()}
    return rows


def to_csv(results: Objects, *, normalize: bool, decimals: int) -> str:
    """Return the summary as CSV; see `Results.to_csv`."""
    columns = ["name", "class", "confidence", "box", *(["segments"] if results.masks is not None else [])]
    rows = summary(results, normalize=normalize, decimals=decimals)
    cells = ([json.dumps(cell) if isinstance(cell, dict) else cell for cell in row.values()] for row in rows)
    return csv_text(columns, cells)


def to_df(rows: list[dict[str, Any]]) -> Any:
    """Return the summary as a pandas DataFrame; see `Results.to_df`."""
    from importlib import import_module

    try:
        pandas = import_module("pandas")
    except ImportError as error:
        raise MissingExtraError(
            "to_df needs the package 'pandas', which is not installed",
            cure="Install it with: pip install pandas; or use summary(), to_json() or to_csv()",
            module="pandas",
        ) from error
    return pandas.DataFrame(rows)


def to_coco(results: Objects, *, image_id: int, category_id: int | None) -> list[dict[str, Any]]:
    """Return the objects as COCO annotations; see `Results.to_coco`."""
    if results.boxes is None:
        return []
    rles = None if results.masks is None else results.masks.to_rle()
    annotations: list[dict[str, Any]] = []
    for at, (left, top, right, bottom, score, index) in enumerate(results.boxes.data.tolist()):
        if rles is None:
            shape = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
        else:
            box = [float(value) for value in rle_to_box(rles[at])]
            shape = {"segmentation": rles[at], "bbox": box, "area": rle_area(rles[at])}
        category = int(index) if category_id is None else category_id
        annotation = {"id": at + 1, "image_id": image_id, "category_id": category, **shape}
        annotations.append(annotation | {"iscrowd": 0, "score": score, "prompt_index": int(results.prompt_index[at])})
    return annotations


def save_txt(results: Objects, path: Path, *, save_conf: bool, parts: Parts) -> str:
    """Append lines in YOLO's format; see `Results.save_txt`."""
    lines = list(_txt_lines(results, save_conf=save_conf, parts=parts))
    if lines:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
    return str(path)


def _txt_lines(results: Objects, *, save_conf: bool, parts: Parts) -> Iterable[str]:
    if results.boxes is None:
        return
    scores = [(float(score),) if save_conf else () for score in results.boxes.conf]
    classes = results.boxes.cls.astype(int).tolist()
    if results.masks is None:
        for index, box, score in zip(classes, results.boxes.xywhn, scores, strict=True):
            yield txt_line(index, (*box.tolist(), *score))
        return
    polygons = results.masks.polygons(parts, normalize=True)
    for index, outlines, score in zip(classes, polygons, scores, strict=True):
        for outline in outlines:
            if len(outline) >= 3:
                yield txt_line(index, (*outline.reshape(-1).tolist(), *score))


def txt_line(index: int, numbers: Iterable[float]) -> str:
    """Return a line in YOLO's format: a class, then numbers in six digits."""
    return " ".join([str(index), *(f"{number:g}" for number in numbers)])


def save_crops(results: Objects, folder: Path, name: Path, *, margin: int) -> list[str]:
    """Write the part of the image around each box; see `Results.save_crop`."""
    from samedge.runtime.results.overlay import write_image

    if results.boxes is None:
        return []
    image = as_bgr(results.orig_img)
    height, width = results.orig_shape
    suffix = name.suffix or ".jpg"
    written: list[str] = []
    for box, index in zip(results.boxes.xyxy, results.boxes.cls.astype(int), strict=True):
        left, top = (max(0, int(value) - margin) for value in np.floor(box[:2]))
        right, bottom = (int(value) + 1 + margin for value in np.ceil(box[2:]))
        crop = image[top : min(bottom, height), left : min(right, width)]
        # A class name is a single folder, even if it contains slashes.
        kind = results.name_of(int(index)).replace("/", "_").replace("\\", "_").strip(".") or "_"
        path, number = folder / kind / f"{name.stem}{suffix}", 2
        while path.exists():
            path, number = folder / kind / f"{name.stem}{number}{suffix}", number + 1
        if crop.size:
            write_image(path, np.ascontiguousarray(crop))
            written.append(str(path))
    return written
