"""YOLO11, YOLO12, YOLO26 and the other strides of YOLOv8 against Ultralytics' own package, from files that it saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from peers.test_ultralytics import ASSETS, LIKE_THEIRS, Reference, agree, predict, run

from samedge.api.yolo import YOLO
from samedge.errors import UsageError
from samedge.export.yolo.export import export_yolo
from samedge.models.yolo.load import load_yolo
from samedge.models.yolo.yolo import MANY, ONE
from samedge.runtime.image.read import read_image
from samedge.runtime.yolo.detections import Thresholds, best_pairs
from samedge.types import Array

pytestmark = pytest.mark.integration

SIDE = 256
CONF = 0.15
MODELS = {
    "yolo11": ("yolo11n-seg", 3),
    "yolo11m": ("yolo11m", 2),
    "yolo12": ("yolo12n-seg", 3),
    "yolo12l": ("yolo12l", 2),
    "yolo26": ("yolo26n-seg", 3),
    "yolo26-detector": ("yolo26s", 4),
    "yolo26-p2": ("yolo26n-p2", 2),
    "yolo26-p6": ("yolo26n-p6", 2),
    "p2": ("yolov8n-p2", 3),
    "p6": ("yolov8n-seg-p6", 2),
}
TWO_HEADS = tuple(name for name in MODELS if name.startswith("yolo26"))
PREDICTED = ("yolo11", "yolo12", "yolo26", "yolo26-detector", "p2", "p6")
END_TO_END = ("yolo26", "yolo26-detector")
SIZES = {"portrait": (233, 417), "landscape": (540, 405)}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("architectures")
    images = {}
    for name, size in SIZES.items():
        images[name] = folder / f"{name}.png"
        cv2.imwrite(str(images[name]), cv2.resize(read_image(ASSETS / "coffee.jpg"), size))
    made = Reference(folder, images)
    scene = cv2.resize(read_image(ASSETS / "scene.jpg"), (192, 128))
    pair = np.stack([scene, scene[:, ::-1]])[..., ::-1].transpose(0, 3, 1, 2)
    np.save(folder / "input.npy", (pair / np.float32(255)).astype(np.float32))
    pictures = [str(ASSETS / name) for name in ("coffee.jpg", "scene.jpg")]
    listed = [str(path) for path in images.values()]
    steps: list[dict[str, Any]] = []
    for name, (model, classes) in MODELS.items():
        path, at = str(made.model(name)), str(folder / name)
        make = {"do": "make", "model": model, "classes": classes, "seed": 1, "images": pictures, "calm": True}
        steps.append({**make, "path": path})
        forward = {"do": "forward", "path": path, "input": str(folder / "input.npy")}
        steps.append({**forward, "output": f"{at}-raw.npz"})
        if name in TWO_HEADS:
            steps.append({**forward, "output": f"{at}-raw-end.npz", "end_to_end": True})
        if name in PREDICTED:
            steps.append(predict(path, listed, folder / f"{name}.npz", imgsz=SIDE, conf=CONF))
        if name in END_TO_END:
            steps.append(predict(path, listed, folder / f"{name}-end.npz", imgsz=SIDE, conf=CONF, nms=False))
            theirs = {"imgsz": SIDE, "nms": False}
            steps.append({"do": "export", "path": path, "options": theirs, "output": f"{at}-theirs.onnx"})
            found = folder / f"{name}-onnx.npz"
            steps.append(predict(f"{at}-theirs.onnx", listed, found, imgsz=SIDE, conf=CONF, task=task(model)))
    run(steps, folder)
    return made


def task(model: str) -> str:
    return "segment" if "-seg" in model else "detect"


@pytest.fixture(scope="module")
def graphs(reference: Reference) -> Iterator[dict[str, YOLO]]:
    """Our exports: of each model, and end to end of those that can."""
    models: dict[str, YOLO] = {}
    for name in PREDICTED:
        path = export_yolo(reference.model(name), reference.folder / f"{name}-ours.onnx", image_size=SIDE)
        models[name] = YOLO(path, threads=1)
    for name in END_TO_END:
        path = reference.folder / f"{name}-ours-end.onnx"
        export_yolo(reference.model(name), path, image_size=SIDE, end_to_end=True)
        models[f"{name}-end"] = YOLO(path, threads=1)
    yield models
    for model in models.values():
        model.close()


@pytest.mark.parametrize("name", MODELS)
def test_what_the_file_says(reference: Reference, name: str) -> None:
    loaded = load_yolo(reference.model(name))
    model, classes = MODELS[name]
    assert loaded.name == model
    assert loaded.names == {number: f"thing {number}" for number in range(classes)}
    assert loaded.model.config.heads == ((MANY, ONE) if name in TWO_HEADS else (MANY,))


def chosen(output: Array, classes: int) -> Array:
    """The rows that an end-to-end graph chooses."""
    found = best_pairs(output, classes, Thresholds(conf=0.0, max_det=300))
    return np.column_stack([found.boxes, found.scores, found.classes, found.coefficients])


def outputs(reference: Reference, name: str, head: str) -> tuple[list[Array], list[Array]]:
    """Outputs of our torch model in float64, and of theirs."""
    model = load_yolo(reference.model(name)).model.with_head(head).double()
    with torch.no_grad():
        ours = [out.numpy() for out in model(torch.from_numpy(np.load(reference.folder / "input.npy")).double())]
    with np.load(reference.folder / f"{name}-raw{'-end' if head else ''}.npz") as arrays:
        return ours, list(arrays.values())


@pytest.mark.parametrize("name", MODELS)
def test_the_torch_model_gives_the_same_numbers(reference: Reference, name: str) -> None:
    ours, wanted = outputs(reference, name, MANY)
    classes = 4 + MODELS[name][1]
    assert [mine.shape for mine in ours] == [theirs.shape for theirs in wanted]
    # Folded weights are rounded to float32, which the attention of a YOLO12 with random weights amplifies.
    loose = 10 if name.startswith("yolo12") else 1
    boxes = np.abs(ours[0][:, :4] - wanted[0][:, :4])
    assert np.quantile(boxes, 0.99) <= 0.1 * loose
    assert boxes.max() <= 0.5 * loose
    assert np.abs(ours[0][:, 4:classes] - wanted[0][:, 4:classes]).max() <= 5e-4 * loose
    for mine, theirs in zip((ours[0][:, classes:], *ours[1:]), (wanted[0][:, classes:], *wanted[1:]), strict=True):
        assert np.abs(mine - theirs).max(initial=0) <= 1e-3 * np.abs(theirs).max(initial=0)


@pytest.mark.parametrize("name", TWO_HEADS)
def test_the_head_without_suppression_chooses_the_same_boxes(reference: Reference, name: str) -> None:
    ours, wanted = outputs(reference, name, ONE)
    for output, theirs in zip(ours[0], wanted[0], strict=True):
        mine = chosen(output, MODELS[name][1])
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine[:, 4], theirs[:, 4], atol=1e-4)
        # Nearly equal scores may stand in another order, and at the end another box may be the last.
        missing = [row for row in theirs[:280] if np.abs(mine[:, :6] - row[:6]).max(1).min() > 0.2]
        assert not missing
    for mine, theirs in zip(ours[1:], wanted[1:], strict=True):
        assert np.abs(mine - theirs).max() <= 1e-3 * np.abs(theirs).max()


@pytest.mark.parametrize("image", SIZES)
@pytest.mark.parametrize("name", [*PREDICTED, *(f"{name}-end" for name in END_TO_END)])
def test_boxes_scores_and_masks(reference: Reference, graphs: dict[str, YOLO], name: str, image: str) -> None:
    boxes, masks = reference.found(name, image)
    assert len(boxes)
    # The edges of masks of random weights move with the processor's rounding: 0.979 without AVX-512.
    agree(graphs[name](reference.images[image], **LIKE_THEIRS, conf=CONF)[0], boxes, masks, iou=0.97)


@pytest.mark.parametrize("image", SIZES)
@pytest.mark.parametrize("name", END_TO_END)
def test_their_own_exports(reference: Reference, name: str, image: str) -> None:
    model = YOLO(reference.folder / f"{name}-theirs.onnx", threads=1)
    agree(model(reference.images[image], **LIKE_THEIRS, conf=CONF)[0], *reference.found(f"{name}-onnx", image))
    model.close()


@pytest.mark.parametrize("name", END_TO_END)
def test_our_exports_run_in_their_runtime(reference: Reference, name: str) -> None:
    path = reference.folder / f"{name}-fixed.onnx"
    export_yolo(reference.model(name), path, image_size=SIDE, dynamic=False, batch=1, end_to_end=True)
    output = reference.folder / f"{name}-theirs-on-ours.npz"
    images = [str(image) for image in reference.images.values()]
    run([predict(str(path), images, output, imgsz=SIDE, conf=CONF, task=task(MODELS[name][0]))], reference.folder)
    with np.load(output) as theirs, np.load(reference.folder / f"{name}-onnx.npz") as own:
        for number in range(len(images)):
            np.testing.assert_allclose(theirs[f"boxes{number}"], own[f"boxes{number}"], atol=0.5)


def test_only_a_yolo26_has_a_head_without_suppression(reference: Reference, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="yolo11n-seg has no head that returns one box per object"):
        export_yolo(reference.model("yolo11"), tmp_path / "x.onnx", end_to_end=True)
    with pytest.raises(UsageError, match="which leaves nothing to suppress"):
        export_yolo(reference.model("yolo26"), tmp_path / "x.onnx", end_to_end=True, nms=True)
