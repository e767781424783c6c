"""Labels of `samedge.auto_annotate` as Ultralytics' own loader reads them, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.pictures import write_image

from samedge.annotation.auto_annotate import auto_annotate
from samedge.api.sam import SAM
from samedge.testing.predictor import fake_predictor

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).with_name("ultralytics_labels.py")
NOT_INSTALLED = 3
NAMES = ["cat", "dog", "cow", "hen"]
BOXES: dict[str, list[list[float]]] = {
    "train/0.png": [[8, 16, 40, 48, 3, 0.9], [30, 2, 60, 30, 0], [8, 16, 40, 48, 1]],
    "train/1.png": [[2, 2, 20, 90, 2]],
    "val/0.png": [[10, 10, 30, 30, 1]],
    "val/2.png": [],
}
SIZES = {"train/1.png": (100, 40)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    for seed, name in enumerate(BOXES):
        height, width = SIZES.get(name, (64, 64))
        write_image(folder / "images" / name, seed, height, width)
    (folder / "names.json").write_text(json.dumps(NAMES))
    (folder / "boxes.json").write_text(json.dumps({"names": NAMES, **BOXES}))
    sam = SAM("fake")
    sam._predictor = fake_predictor(image_size=256)
    report = auto_annotate(folder / "images", folder / "boxes.json", sam, output_dir=folder / "labels")
    assert report.annotated == 3
    return folder


def test_their_loader_reads_what_was_meant(dataset: Path) -> None:
    output = dataset / "found.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(dataset), str(output)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode == NOT_INSTALLED:
        pytest.skip("ultralytics is not installed")
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    found: dict[str, Any] = json.loads(output.read_text())
    assert found.keys() == BOXES.keys()
    coco = json.loads((dataset / "labels" / "annotations.coco.json").read_text())
    ids = {image["file_name"]: image["id"] for image in coco["images"]}
    for name, boxes in BOXES.items():
        assert found[name]["classes"] == [box[4] for box in boxes]
        areas = [annotation["area"] for annotation in coco["annotations"] if annotation["image_id"] == ids[name]]
        np.testing.assert_allclose(found[name]["areas"], areas, rtol=0.08)
        for box, segment in zip(boxes, found[name]["segments"], strict=True):
            low, high = np.min(segment, 0), np.max(segment, 0)
            np.testing.assert_allclose([*low, *(high + 1)], box[:4], atol=2)
