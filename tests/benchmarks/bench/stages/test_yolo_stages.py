"""Masks of a YOLO compared with those of its checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from samedge.benchmarks.bench.stages.yolo_stages import yolo_masks
from samedge.export.yolo.export import export_yolo
from samedge.models.yolo.seeded import seeded_yolo


def test_a_yolos_graph_gives_the_masks_of_its_weights_and_not_those_of_others(tmp_path: Path) -> None:
    graph = export_yolo("seeded:yolov8n-seg", tmp_path / "it.onnx", image_size=128, check=False)
    same = yolo_masks("seeded:yolov8n-seg", str(graph), "onnxruntime", 1)
    assert same["passed"]
    assert same["worst"] >= 0.99
    torch.save(seeded_yolo("yolov8n-seg", seed=1).state_dict(), tmp_path / "other.pt")
    other = yolo_masks(str(tmp_path / "other.pt"), str(graph), "onnxruntime", 1)
    assert not other["passed"]
    assert other["worst"] < 0.9
