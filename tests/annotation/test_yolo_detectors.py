"""YOLO models as detectors: small ones with seeded weights, whose boxes mean nothing and are the same each time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.yolo_models import yolov8_config

import samedge
from samedge.annotation.auto_annotate import auto_annotate
from samedge.api.sam import SAM
from samedge.api.yolo import YOLO
from samedge.errors import EngineError, UsageError
from samedge.export.yolo.export import export_yolo
from samedge.models.yolo.seeded import seeded_yolo

SEGMENTER = yolov8_config((8, 12, 16, 24, 32), (1, 1, 1, 1, 1, 1, 1, 1), 3, 8, 16, 16, 4, 8, 12)
DETECTOR = yolov8_config((8, 8, 16, 16, 24), (1, 1, 1, 1, 1, 1, 1, 1), 2, 16, 64, 16)
ASSETS = Path(samedge.__file__).parent / "assets"
CONF = 0.02


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A segmenter that takes 128 px alone, and a detector of any size."""
    folder = tmp_path_factory.mktemp("graphs")
    made = {}
    for name, config, dynamic in (("segmenter", SEGMENTER, False), ("detector", DETECTOR, True)):
        torch.save(seeded_yolo(config).state_dict(), folder / f"{name}.pt")
        path = folder / f"{name}.onnx"
        made[name] = export_yolo(folder / f"{name}.pt", path, image_size=128, dynamic=dynamic, check=False)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("coffee.jpg", "scene.jpg"):
        shutil.copy(ASSETS / name, tmp_path / "in")
    return tmp_path / "in"


@pytest.mark.parametrize("name", ["segmenter", "detector"])
def test_their_boxes_become_labels(sam: SAM, folder: Path, graphs: dict[str, Path], name: str) -> None:
    imgsz = 640 if name == "segmenter" else 128  # the known default is no error for a graph of one other size
    report = auto_annotate(folder, graphs[name], sam, conf=CONF, max_det=5, imgsz=imgsz, backend="onnxruntime")
    document = json.loads(report.coco.read_text())
    model = YOLO(graphs[name], backend="onnxruntime")
    assert [category["name"] for category in document["categories"]] == list(model.names.values())
    for image in document["images"]:
        (wanted,) = model(folder / image["file_name"], conf=CONF, iou=0.45, max_det=5, imgsz=128)
        assert wanted.boxes is not None
        assert len(wanted) > 0
        found = [entry for entry in document["annotations"] if entry["image_id"] == image["id"]]
        assert [entry["category_id"] - 1 for entry in found] == wanted.boxes.cls[
            [entry["proposal"] for entry in found]
        ].tolist()
        np.testing.assert_allclose(
            [entry["score"] for entry in found], wanted.boxes.conf[[entry["proposal"] for entry in found]], atol=1e-6
        )
        dropped = len(wanted) - len(found)
        assert dropped <= sum(report.dropped.values())


def test_an_opened_one_stays_open(sam: SAM, folder: Path, graphs: dict[str, Path]) -> None:
    model = YOLO(graphs["detector"], backend="onnxruntime")
    report = auto_annotate(folder, model, sam, conf=CONF, classes=[1], imgsz=128, names=["left", "right"])
    assert not model.predictor.engine.closed
    labels = [path for path in report.output.glob("*.txt") if path.name != "classes.txt"]
    assert {line.split()[0] for path in labels for line in path.read_text().splitlines()} <= {"1"}
    assert json.loads(report.coco.read_text())["categories"][1]["name"] == "right"
    # The same file by its path is the same detector: the run goes on.
    again = auto_annotate(
        folder, graphs["detector"], sam, conf=CONF, classes=[1], imgsz=128, names=["left", "right"], backend="ort"
    )
    assert again.resumed == 2


def test_sizes_that_a_graph_does_not_take(sam: SAM, folder: Path, graphs: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="imgsz is 320"):
        auto_annotate(folder, graphs["segmenter"], sam, imgsz=320)


def test_what_is_no_detector(sam: SAM, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError):
        auto_annotate(folder, tmp_path / "a.onnx", sam)
    assert not (tmp_path / "in_auto_annotate_labels").exists()
