"""Sets of masks compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from samedge.benchmarks.measure.agreement import Agreement, agreement, largest_difference, mask_ious, yolo_masks
from samedge.export.yolo.export import export_yolo
from samedge.models.yolo.seeded import seeded_yolo
from samedge.types import BoolArray


def bar(start: int, stop: int) -> BoolArray:
    """A mask of 1 x 10 px that is set from one column to another."""
    mask = np.zeros((1, 10), np.bool_)
    mask[:, start:stop] = True
    return mask


def test_ious_of_each_with_each() -> None:
    ious = mask_ious([bar(0, 10), bar(0, 5), bar(0, 0)], [bar(0, 5), bar(5, 10)])
    assert ious == pytest.approx(np.array([[0.5, 0.5], [1, 0], [0, 0]]))
    assert mask_ious([bar(0, 0)], [bar(0, 0)]) == 1  # both say that there is nothing
    assert mask_ious([], [bar(0, 1)]).shape == (0, 1)


def test_recall_precision_and_the_worst() -> None:
    found = agreement([bar(0, 10), bar(0, 9), bar(3, 4)], [bar(0, 10), bar(6, 10)], 0.9)
    assert (found.wanted, found.found, found.recalled, found.confirmed) == (2, 3, 1, 2)
    assert found.worst == pytest.approx(0.4)
    assert found.mean_iou == pytest.approx(0.7)
    assert found.recall == 0.5
    assert found.precision == pytest.approx(2 / 3)


def test_images_add_up_and_nothing_wanted_is_nothing_missed() -> None:
    nothing = agreement([], [], 0.9)
    assert (nothing.recall, nothing.precision, nothing.worst, nothing.mean_iou) == (1, 1, 1, 1)
    assert agreement([bar(0, 1)], [], 0.9).precision == 0
    assert agreement([], [bar(0, 1)], 0.9) == Agreement(1, 0, 0, 0, 0.0, 0.0)
    total = Agreement() + agreement([bar(0, 2)], [bar(0, 2)], 0.9) + agreement([], [bar(0, 1)], 0.9)
    assert (total.wanted, total.recall, total.precision, total.worst, total.mean_iou) == (2, 0.5, 1, 0, 0.5)


def test_the_largest_difference() -> None:
    assert largest_difference(np.array([1.0, -2.0], np.float32), np.array([1.0, 1.0], np.float32)) == 3


def test_a_yolos_graph_gives_the_masks_of_its_weights_and_not_those_of_others(tmp_path: Path) -> None:
    graph = export_yolo("seeded:yolov8n-seg", tmp_path / "it.onnx", image_size=128, check=False)
    same = yolo_masks("seeded:yolov8n-seg", str(graph), "onnxruntime", 1)
    assert same["passed"]
    assert same["worst"] >= 0.99
    torch.save(seeded_yolo("yolov8n-seg", seed=1).state_dict(), tmp_path / "other.pt")
    other = yolo_masks(str(tmp_path / "other.pt"), str(graph), "onnxruntime", 1)
    assert not other["passed"]
    assert other["worst"] < 0.9
