"""Drawn scenes with known masks, their true boxes as a detector, and the trained weights of sam_demo."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from support import generators

from samedge.annotation.auto_annotate import auto_annotate
from samedge.annotation.objects import MaskPolicy, label_line, mask_forms
from samedge.api.sam import SAM
from samedge.runtime.results.boxes import boxes_of_masks
from samedge.types import BoolArray, FloatArray, ImageArray
from tools.train_sam_demo.scenes import Scene, scene

SEEDS = range(8)
SIDE = 256


def labels_of(path: Path) -> list[tuple[int, BoolArray]]:
    """Reads labels as their readers do: a class, and what its polygon covers."""
    found: list[tuple[int, BoolArray]] = []
    for line in path.read_text().splitlines():
        category, *shares = line.split(" ")
        points = np.rint(np.array(shares, float).reshape(-1, 2) * SIDE).astype(np.int32)
        canvas = np.zeros((SIDE, SIDE), np.uint8)
        cv2.fillPoly(canvas, [points], (1,))
        found.append((int(category), canvas > 0))
    return found


def overlaps(mask: BoolArray, others: BoolArray) -> FloatArray:
    return np.asarray((mask & others).sum((1, 2)) / (mask | others).sum((1, 2)), np.float32)


def test_labels_are_the_objects(tmp_path: Path) -> None:
    scenes: dict[bytes, Scene] = {}
    for seed in SEEDS:
        drawn = scene(seed, size=SIDE)
        bgr = np.ascontiguousarray(drawn.image[..., ::-1])
        folder = tmp_path / "scenes" / f"part{seed % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{seed // 2}.png"), bgr)
        scenes[bgr.tobytes()] = drawn

    def true_boxes(image: ImageArray) -> tuple[FloatArray, list[int]]:
        masks = scenes[image.tobytes()].masks
        return boxes_of_masks(masks), list(range(len(masks)))

    sam = SAM("sam_demo")
    sam._predictor = generators.demo_predictor()
    report = auto_annotate(tmp_path / "scenes", true_boxes, sam, holes="bridge", sam_conf=-1)
    assert (report.annotated, report.failures, dict(report.dropped)) == (len(SEEDS), 0, {})
    ious: list[float] = []
    own: list[bool] = []
    for seed, drawn in zip(SEEDS, scenes.values(), strict=True):
        labels = labels_of(report.output / f"part{seed % 2}" / f"{seed // 2}.txt")
        assert [category for category, _ in labels] == list(range(len(drawn.masks)))
        for category, mask in labels:
            with_each = overlaps(mask, drawn.masks)
            ious.append(float(with_each[category]))
            own.append(int(with_each.argmax()) == category)
    assert len(ious) == report.objects > 20
    # What these weights reach; what the labels lose of a mask is the other test's.
    assert np.median(ious) > 0.65
    assert np.mean(own) > 0.9, "a class lies on its own object"


def test_labels_of_true_masks_are_the_masks(tmp_path: Path) -> None:
    """Parts, holes, thin curves, characters: all that the scenes have, through the text of labels and back."""
    ious: list[float] = []
    for seed in range(30):
        masks = scene(seed, "held_out" if seed % 2 else "train", size=SIDE).masks
        polygons = [mask_forms(mask, MaskPolicy(holes="bridge")).polygons for mask in masks]
        lines = [label_line(at, polygon, SIDE, SIDE) for at, found in enumerate(polygons) for polygon in found]
        (tmp_path / "a.txt").write_text("\n".join(lines))
        labels = labels_of(tmp_path / "a.txt")
        assert [category for category, _ in labels] == list(range(len(masks)))
        ious += [float(overlaps(mask, masks[at : at + 1])[0]) for at, mask in labels]
    assert len(ious) > 100
    assert np.mean(ious) > 0.99
    assert min(ious) > 0.85
    assert np.mean(np.array(ious) > 0.999) > 0.5, "most have one part and no hole, and lose nothing"
