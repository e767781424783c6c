"""Labels that `samedge annotate` writes, read by other tools' own classes, in an environment of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.bundles import write_small_bundle
from support.environments import Environment, environment

from samedge.annotation.auto_annotate import AnnotateReport, auto_annotate
from samedge.api.sam import SAM
from samedge.types import ImageArray

pytestmark = pytest.mark.integration

NAMES = {0: "coin", 2: "two words"}
BOXES = [[8, 16, 40, 48], [30, 10, 60, 30]]

SUPERVISION = """
import json, sys
import supervision as sv
images, labels, coco = sys.argv[1:]
yolo = sv.DetectionDataset.from_yolo(images, labels, f"{labels}/data.yaml", force_masks=True)
read = sv.DetectionDataset.from_coco(images, coco, force_masks=True)
def told(dataset):
    rows = []
    for path, image, found in dataset:
        for box, mask, kind in zip(found.xyxy.tolist(), found.mask, found.class_id):
            rows.append([path.split("/")[-1], dataset.classes[int(kind)], box, int(mask.sum())])
    return sorted(rows)
print(json.dumps({"yolo": told(yolo), "coco": told(read)}))
"""

DATUMARO = """
import json, sys
from datumaro.components.dataset import Dataset
dataset = Dataset.import_from(sys.argv[1], "coco_instances")
names = [label.name for label in dataset.categories()[list(dataset.categories())[0]].items]
rows = []
for item in dataset:
    for one in item.annotations:
        rows.append([item.id, None if one.label is None else names[one.label], float(one.get_area())])
print(json.dumps(sorted(rows)))
"""

LABEL_STUDIO = """
import json, os, sys, tempfile
from label_studio_sdk.converter.imports import coco, yolo
images, labels, document = sys.argv[1:]
out = tempfile.mkdtemp()
coco.convert_coco_to_ls(document, f"{out}/coco.json", use_super_categories=False, out_type="predictions")
tasks = json.load(open(f"{out}/coco.json"))
rows = []
for task in tasks:
    for result in task["predictions"][0]["result"]:
        value = result["value"]
        for kind in ("polygonlabels", "rectanglelabels", "brushlabels"):
            if kind in value:
                rows.append([task["data"]["image"].split("/")[-1].split("=")[-1], kind, value[kind]])
print(json.dumps(sorted(rows)))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere") / "images"
    folder.mkdir()
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 256, (64, 72, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> SAM:
    return SAM(write_small_bundle(tmp_path_factory.mktemp("sam") / "small-samedge"), backend="onnxruntime")


def annotate(images: Path, sam: SAM, form: str) -> AnnotateReport:
    def boxes(_: ImageArray) -> tuple[list[list[int]], list[int]]:
        return BOXES, [0, 2]

    return auto_annotate(
        images, boxes, sam, names=NAMES, sam_conf=-1.0, output_dir=images.parent / f"labels-{form}",
        coco_segmentation=form,  # type: ignore[arg-type]
    )  # fmt: skip


def told(tool: Environment, script: str, *arguments: object) -> object:
    done = tool.run("-c", script, *map(str, arguments))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("form", ["rle", "polygon"])
def test_supervision(images: Path, sam: SAM, form: str) -> None:
    report = annotate(images, sam, form)
    found = told(environment("supervision", "supervision==0.31.2"), SUPERVISION, images, report.output, report.coco)
    assert isinstance(found, dict)
    for rows in found.values():
        assert sorted({(row[0], row[1]) for row in rows}) == [
            (f"{number}.png", name) for number in range(2) for name in sorted(NAMES.values())
        ]
    if form == "rle":  # polygons cover holes
        areas = sorted(one["area"] for one in json.loads(report.coco.read_text())["annotations"])
        assert sorted(row[3] for row in found["coco"]) == areas


@pytest.mark.parametrize("form", ["rle", "polygon"])
def test_datumaro(images: Path, sam: SAM, form: str, tmp_path: Path) -> None:
    """And with it CVAT's importer: the first class used to lose its label."""
    report = annotate(images, sam, form)
    shutil.copytree(images, tmp_path / "images" / "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_bytes(report.coco.read_bytes())
    rows = told(environment("datumaro", "datumaro==1.13.12"), DATUMARO, tmp_path)
    assert isinstance(rows, list)
    names = sorted({(row[0], row[1]) for row in rows}, key=str)
    assert names == [(str(number), name) for number in range(2) for name in sorted(NAMES.values())]


def test_label_studio(images: Path, sam: SAM) -> None:
    report = annotate(images, sam, "polygon")
    tool = environment("label-studio", "label-studio-sdk==2.1.2")
    rows = told(tool, LABEL_STUDIO, images, report.output, report.coco)
    assert isinstance(rows, list)
    assert {(row[0], *row[2]) for row in rows} == {
        (f"{number}.png", name) for number in range(2) for name in NAMES.values()
    }
    assert "polygonlabels" in {row[1] for row in rows}
