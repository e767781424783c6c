"""YOLO and FastSAM against Ultralytics' own package: files that it saved and exported, and what it says of images.

The package is never imported here: a script runs it in a process of its own, once for all tests of this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import samedge
from samedge.api.yolo import YOLO, FastSAM
from samedge.engines.onnx_header import read_onnx_metadata
from samedge.export.yolo.export import export_yolo
from samedge.models.yolo.configs import named_yolo_config, yolo_config
from samedge.models.yolo.load import load_yolo
from samedge.models.yolo.yolo import Yolo
from samedge.runtime.image.read import read_image
from samedge.runtime.results.results import Results

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).with_name("ultralytics_reference.py")
NOT_INSTALLED = 3
ASSETS = Path(samedge.__file__).parent / "assets"
SIDE = 320
MAX_DET = 50
LIKE_THEIRS: dict[str, Any] = {"max_det": MAX_DET, "retina_masks": True}
SIZES = {"portrait": (333, 517), "landscape": (1080, 810), "thin": (700, 90), "tall": (77, 613), "small": (40, 57)}
"""Width and height of the images, px."""
MODELS = {
    "segmenter": ("yolov8n-seg", 3),
    "detector": ("yolov8s", 5),
    "fastsam": ("yolov8n-seg", 1),
    "deep": ("yolov8m-seg", 2),
}
PREDICTED = ("segmenter", "detector", "fastsam")
NAMES = ("yolov8n", "yolov8s-seg", "yolov8m-seg", "yolov8l", "yolov8x-seg")
SAME = ("first", "second", "third")
"""Images of one size, which go through a graph together."""
PROMPTS: dict[str, dict[str, Any]] = {
    "box": {"bboxes": [[60, 40, 200, 190]]},
    "boxes": {"bboxes": [[60, 40, 200, 190], [150, 200, 320, 500], [-10, -10, 900, 900]]},
    "point": {"points": [[150, 250]]},
    "points": {"points": [[150, 250], [40, 400], [300, 100]], "labels": [1, 1, 0]},
    "outside": {"points": [[150, 250], [40, 400]], "labels": [0, 0]},
    "both": {"bboxes": [60, 40, 200, 190], "points": [[40, 400]], "labels": [1]},
}


@dataclass(frozen=True)
class Reference:
    """A folder with what the script left."""

    folder: Path
    images: dict[str, Path]

    def model(self, name: str) -> Path:
        return self.folder / f"{name}.pt"

    def found(self, name: str, image: str) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """Boxes and masks of one image."""
        with np.load(self.folder / f"{name}.npz") as arrays:
            number = list(self.images).index(image)
            return arrays[f"boxes{number}"], unpacked(arrays, number)


def unpacked(arrays: Mapping[str, NDArray[Any]], number: int) -> NDArray[np.bool_] | None:
    if f"masks{number}" not in arrays:
        return None
    count, height, width = arrays[f"shape{number}"]
    return np.unpackbits(arrays[f"masks{number}"], count=count * height * width).reshape(count, height, width) > 0


def job(reference: Reference) -> list[dict[str, Any]]:
    at, images = reference.folder, [str(path) for path in reference.images.values()]
    pictures = [str(ASSETS / name) for name in ("coffee.jpg", "scene.jpg")]
    steps: list[dict[str, Any]] = [
        {
            "do": "make",
            "model": model,
            "classes": classes,
            "seed": 1,
            "images": pictures,
            "path": str(reference.model(name)),
        }
        for name, (model, classes) in MODELS.items()
    ]
    np.save(at / "input.npy", np.random.default_rng(0).random((2, 3, 96, 160), np.float32))
    for name in MODELS:
        path = str(reference.model(name))
        raw = str(at / f"{name}-raw.npz")
        steps.append({"do": "forward", "path": path, "input": str(at / "input.npy"), "output": raw})
        if name in PREDICTED:
            steps.append(predict(path, images, at / f"{name}.npz", imgsz=SIDE))
    segmenter, fastsam = str(reference.model("segmenter")), str(reference.model("fastsam"))
    steps += [
        predict(segmenter, images, at / "square.npz", imgsz=SIDE, rect=False),
        predict(segmenter, images, at / "options.npz", imgsz=SIDE, iou=0.3, classes=[0, 2], max_det=7),
        predict(segmenter, images, at / "agnostic.npz", imgsz=SIDE, agnostic_nms=True),
        predict(segmenter, images, at / "oblong.npz", imgsz=[256, 416], rect=False),
        predict(segmenter, images, at / "none.npz", imgsz=SIDE, conf=0.99999),
        predict(segmenter, images, at / "small.npz", imgsz=SIDE, conf=0.1, iou=1.0, max_det=1000, retina_masks=False),
        {
            **predict(segmenter, [str(at / f"{name}.png") for name in SAME], at / "batch.npz", imgsz=SIDE),
            "together": True,
        },
    ]
    everything = {**predict(fastsam, images, at / "everything.npz", imgsz=SIDE), "fastsam": True}
    steps.append(everything)
    for name, prompts in PROMPTS.items():
        step = predict(fastsam, images[:1], at / f"prompt-{name}.npz", imgsz=SIDE, **prompts)
        steps.append({**step, "fastsam": True})
    exports: dict[str, dict[str, Any]] = {
        "fixed": {"imgsz": SIDE},
        "free": {"imgsz": SIDE, "dynamic": True},
        "suppressed": {"imgsz": SIDE, "nms": True},
        "agnostic": {"imgsz": SIDE, "nms": True, "agnostic_nms": True, "iou": 0.5, "conf": 0.3, "max_det": 20},
        "four": {"imgsz": SIDE, "batch": 4},
    }
    for name, options in exports.items():
        onnx = at / f"{name}.onnx"
        steps.append({"do": "export", "path": segmenter, "options": options, "output": str(onnx)})
        if name != "four":  # which they can only feed with four images
            conf = options.get("conf", 0.25)
            steps.append(predict(str(onnx), images, at / f"onnx-{name}.npz", imgsz=SIDE, task="segment", conf=conf))
    shapes = [[name, 1 if name.endswith("-seg") else 80] for name in NAMES]
    steps.append({"do": "shapes", "models": shapes, "output": str(at / "shapes.json")})
    return steps


def predict(path: str, images: list[str], output: Path, **options: Any) -> dict[str, Any]:
    return {
        "do": "predict",
        "path": path,
        "images": images,
        "options": {"max_det": MAX_DET, **options},
        "output": str(output),
    }


def run(steps: list[dict[str, Any]], folder: Path) -> None:
    (folder / "job.json").write_text(json.dumps(steps))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "job.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode == NOT_INSTALLED:
        pytest.skip("ultralytics is not installed")
    if done.returncode:
        pytest.fail(f"the reference failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("ultralytics")
    coffee = read_image(ASSETS / "coffee.jpg")
    images = {}
    for name, size in SIZES.items():
        images[name] = folder / f"{name}.png"
        cv2.imwrite(str(images[name]), cv2.resize(coffee, size))
    scene = cv2.resize(read_image(ASSETS / "scene.jpg"), (451, 303))
    for name, image in zip(SAME, (scene, scene[:, ::-1], 255 - scene), strict=True):
        cv2.imwrite(str(folder / f"{name}.png"), image)
    made = Reference(folder, images)
    run(job(made), folder)
    return made


@pytest.fixture(scope="module")
def graphs(reference: Reference) -> Iterator[dict[str, YOLO]]:
    """Our own export of each model, opened."""
    models: dict[str, YOLO] = {}
    for name in PREDICTED:
        path = export_yolo(reference.model(name), reference.folder / f"{name}-ours.onnx", image_size=SIDE)
        models[name] = FastSAM(path, threads=1) if name == "fastsam" else YOLO(path, threads=1)
    yield models
    for model in models.values():
        model.close()


@pytest.fixture(scope="module")
def suppressing(reference: Reference) -> dict[bool, Path]:
    """Our export of the segmenter with suppression in the graph, class by class and across classes."""
    model, at = reference.model("segmenter"), reference.folder
    options: dict[str, Any] = {"image_size": SIDE, "dynamic": False, "nms": True, "batch": 1}
    return {
        False: export_yolo(model, at / "ours-suppressed.onnx", **options),
        True: export_yolo(
            model, at / "ours-agnostic.onnx", **options, iou=0.5, conf=0.3, max_det=20, agnostic_nms=True
        ),
    }


@pytest.fixture(scope="module")
def theirs_on_ours(reference: Reference, graphs: dict[str, YOLO], suppressing: dict[bool, Path]) -> dict[str, Path]:
    """What their runtime finds with our exports: plain ones on one image, and those that suppress on all."""
    assert "segmenter" in graphs
    files = {name: reference.folder / f"theirs-on-ours-{name}.npz" for name in ("plain", "suppressed")}
    images, portrait = [str(path) for path in reference.images.values()], [str(reference.images["portrait"])]
    plain = str(reference.folder / "segmenter-ours.onnx")
    run(
        [
            predict(plain, portrait, files["plain"], imgsz=SIDE, task="segment"),
            predict(str(suppressing[False]), images, files["suppressed"], imgsz=SIDE, task="segment"),
        ],
        reference.folder,
    )
    return files


def agree(ours: Results, boxes: NDArray[np.float32], masks: NDArray[np.bool_] | None, *, iou: float = 0.99) -> None:
    """Every box of theirs is one of ours, and there are no others. Equal scores may stand in another order."""
    assert ours.boxes is not None
    assert len(ours) == len(boxes)
    data, left = ours.boxes.data, list(range(len(boxes)))
    for number, box in enumerate(boxes):
        error = np.abs(data[left, :4] - box[:4]).max(1) + (data[left, 5] != box[5]) * 1e6
        at = left.pop(int(error.argmin()))
        assert np.abs(data[at, :4] - box[:4]).max() <= 0.5
        assert abs(data[at, 4] - box[4]) <= 1e-4
        assert data[at, 5] == box[5]
        if masks is not None:
            assert ours.masks is not None
            mine = ours.masks.data[at]
            assert mine.shape == masks[number].shape
            assert (mine & masks[number]).sum() / (mine | masks[number]).sum() >= iou


class TestFiles:
    @pytest.mark.parametrize("name", MODELS)
    def test_what_the_file_says(self, reference: Reference, name: str) -> None:
        loaded = load_yolo(reference.model(name))
        model, classes = MODELS[name]
        assert loaded.name == model
        assert loaded.names == {number: f"thing {number}" for number in range(classes)}
        assert loaded.image_size == 640
        assert not loaded.seeded

    @pytest.mark.parametrize("name", MODELS)
    def test_the_torch_model_gives_the_same_numbers(self, reference: Reference, name: str) -> None:
        model = load_yolo(reference.model(name)).model.double()
        with torch.no_grad():
            ours = [out.numpy() for out in model(torch.from_numpy(np.load(reference.folder / "input.npy")).double())]
        with np.load(reference.folder / f"{name}-raw.npz") as theirs:
            assert len(ours) == len(theirs)
            wanted = list(theirs.values())
        classes = 4 + MODELS[name][1]
        assert ours[0].shape == wanted[0].shape
        assert np.abs(ours[0][:, :4] - wanted[0][:, :4]).max() <= 0.2  # noise as input: the worst case
        assert np.abs(ours[0][:, 4:classes] - wanted[0][:, 4:classes]).max() <= 1e-4
        if len(wanted) > 1:
            assert ours[1].shape == wanted[1].shape
            assert (
                np.abs(ours[0][:, classes:] - wanted[0][:, classes:]).max()
                <= 1e-3 * np.abs(wanted[0][:, classes:]).max()
            )
            assert np.abs(ours[1] - wanted[1]).max() <= 1e-3 * np.abs(wanted[1]).max()

    @pytest.mark.parametrize("name", NAMES)
    def test_the_sizes_of_released_models(self, reference: Reference, name: str) -> None:
        config = yolo_config(name[6], classes=1, segments=True) if name.endswith("-seg") else named_yolo_config(name)
        with torch.device("meta"):
            ours = {key: list(value.shape) for key, value in Yolo(config).state_dict().items()}
        theirs = json.loads((reference.folder / "shapes.json").read_text())[name]
        unfolded = {key: shape for key, shape in theirs.items() if ".bn." not in key}
        biases = {key: shape for key, shape in ours.items() if key not in unfolded}
        assert {key: shape for key, shape in ours.items() if key in unfolded} == unfolded
        assert all(key.endswith(".conv.bias") for key in biases)
        assert {key.replace(".conv.bias", ".bn.bias") for key in biases} == {
            k for k in theirs if k.endswith(".bn.bias")
        }


class TestPredictions:
    def test_the_reference_finds_something(self, reference: Reference) -> None:
        boxes, masks = reference.found("segmenter", "landscape")
        assert len(boxes) > 20
        assert masks is not None
        assert 0.002 < masks.mean() < 0.5
        assert len(np.unique(boxes[:, 5])) > 1
        assert boxes[:, 4].max() - boxes[:, 4].min() > 0.1

    @pytest.mark.parametrize("image", SIZES)
    @pytest.mark.parametrize("name", PREDICTED)
    def test_boxes_scores_and_masks(self, reference: Reference, graphs: dict[str, YOLO], name: str, image: str) -> None:
        model = graphs[name]
        ours = YOLO.predict(model, reference.images[image], **LIKE_THEIRS)[0]
        agree(ours, *reference.found(name, image))
        assert ours.names == model.names
        assert (ours.masks is None) == (name == "detector" or not len(ours))
        assert ours.path == str(reference.images[image])

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("square", {"rect": False}),
            ("options", {"iou": 0.3, "classes": [0, 2], "max_det": 7}),
            ("agnostic", {"agnostic_nms": True}),
            ("oblong", {"imgsz": (256, 416), "rect": False}),
        ],
    )
    @pytest.mark.parametrize("image", ["portrait", "landscape"])
    def test_options(
        self, reference: Reference, graphs: dict[str, YOLO], name: str, options: dict[str, Any], image: str
    ) -> None:
        agree(
            graphs["segmenter"](reference.images[image], **{**LIKE_THEIRS, **options})[0], *reference.found(name, image)
        )

    @pytest.mark.parametrize("image", SIZES)
    @pytest.mark.parametrize("name", ["fixed", "free", "suppressed", "agnostic"])
    def test_their_own_exports(self, reference: Reference, name: str, image: str) -> None:
        model = YOLO(reference.folder / f"{name}.onnx", threads=1)
        assert model.task == "segment"
        assert model.names == {number: f"thing {number}" for number in range(3)}
        assert model.predictor.graph.suppressed == (name in {"suppressed", "agnostic"})
        assert model.predictor.graph.fixed_size == (name != "free")
        agree(model(reference.images[image], **LIKE_THEIRS)[0], *reference.found(f"onnx-{name}", image))

    @pytest.mark.parametrize("image", SIZES)
    def test_objects_go_whose_mask_is_empty_at_the_size_of_the_input(
        self, reference: Reference, graphs: dict[str, YOLO], image: str
    ) -> None:
        boxes, _ = reference.found("small", image)
        ours = graphs["segmenter"](reference.images[image], conf=0.1, iou=1.0, max_det=1000)[0]
        agree(ours, boxes, None)

    def test_nothing_is_found(self, reference: Reference, graphs: dict[str, YOLO]) -> None:
        for image, path in reference.images.items():
            boxes, masks = reference.found("none", image)
            (ours,) = graphs["segmenter"](path, conf=0.99999)
            assert (len(boxes), masks, len(ours), ours.masks) == (0, None, 0, None)
            assert ours.boxes is not None
            assert ours.boxes.data.shape == boxes.shape == (0, 6)

    @pytest.mark.parametrize("batch", [1, 2, 3, 8])
    def test_lists(self, reference: Reference, graphs: dict[str, YOLO], batch: int) -> None:
        images = [read_image(reference.folder / f"{name}.png") for name in SAME]
        ours = graphs["segmenter"](images, batch=batch, **LIKE_THEIRS)
        assert len(ours) == len(images)
        with np.load(reference.folder / "batch.npz") as arrays:
            for number, results in enumerate(ours):
                agree(results, arrays[f"boxes{number}"], unpacked(arrays, number))

    def test_a_graph_that_takes_four_images(self, reference: Reference) -> None:
        """Fed with five: the last four times with what is left out."""
        model = YOLO(reference.folder / "four.onnx", threads=1)
        assert model.predictor.graph.batch == 4
        images = list(reference.images.values())
        for image, results in zip(SIZES, model(images, batch=5, **LIKE_THEIRS), strict=True):
            agree(results, *reference.found("onnx-fixed", image))

    @pytest.mark.parametrize("agnostic", [False, True])
    @pytest.mark.parametrize("image", ["portrait", "thin"])
    def test_suppression_in_our_graph_is_theirs(
        self, reference: Reference, suppressing: dict[bool, Path], image: str, agnostic: bool
    ) -> None:
        model = YOLO(suppressing[agnostic], threads=1)
        assert model.predictor.graph.suppressed
        theirs = "agnostic" if agnostic else "suppressed"
        agree(model(reference.images[image], **LIKE_THEIRS)[0], *reference.found(f"onnx-{theirs}", image))

    def test_our_suppression_runs_in_their_runtime(
        self, reference: Reference, suppressing: dict[bool, Path], theirs_on_ours: dict[str, Path]
    ) -> None:
        with np.load(theirs_on_ours["suppressed"]) as arrays:
            for number, name in enumerate(reference.images):
                found = YOLO(suppressing[False], threads=1)(reference.images[name], **LIKE_THEIRS)[0]
                agree(found, arrays[f"boxes{number}"], unpacked(arrays, number))

    def test_our_exports_run_in_their_runtime(
        self, reference: Reference, graphs: dict[str, YOLO], theirs_on_ours: dict[str, Path]
    ) -> None:
        path, image = reference.folder / "segmenter-ours.onnx", reference.images["portrait"]
        with np.load(theirs_on_ours["plain"]) as arrays:
            assert json.loads(str(arrays["names"])) == {"0": "thing 0", "1": "thing 1", "2": "thing 2"}
            # They do not cut the padding of a graph whose metadata does not say that it is free in their own words.
            boxes, masks = arrays["boxes0"], unpacked(arrays, 0)
        candidates = [graphs["segmenter"](image, rect=rect, **LIKE_THEIRS)[0] for rect in (True, False)]
        agree(next(results for results in candidates if len(results) == len(boxes)), boxes, masks)
        assert read_onnx_metadata(path)["author"] == "samedge"


class TestFastSAM:
    @pytest.mark.parametrize("image", SIZES)
    def test_everything(self, reference: Reference, graphs: dict[str, YOLO], image: str) -> None:
        agree(graphs["fastsam"](reference.images[image], **LIKE_THEIRS)[0], *reference.found("everything", image))

    @pytest.mark.parametrize("name", PROMPTS)
    def test_prompts(self, reference: Reference, graphs: dict[str, YOLO], name: str) -> None:
        model = graphs["fastsam"]
        assert isinstance(model, FastSAM)
        ours = model(reference.images["portrait"], **LIKE_THEIRS, **PROMPTS[name])[0]
        boxes, masks = reference.found(f"prompt-{name}", "portrait")
        agree(ours, boxes, masks)
        everything = model(reference.images["portrait"], **LIKE_THEIRS)[0]
        assert 0 < len(ours) < len(everything)
