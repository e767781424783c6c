"""Graphs and configurations for annotation tools, run by the tools' own classes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from support.environments import ROOT, Environment, environment
from support.reference import reference_sam, segment_anything, timm, torchvision

import samedge
from samedge.export.exporter import export_model
from samedge.models.sam.configs import SMALL_VIT
from samedge.models.sam.seeded import seeded_state
from samedge.options import ExportOptions
from samedge.types import BoolArray, ImageArray, IOScheme

pytestmark = pytest.mark.integration
SCRIPT = Path(__file__).with_name("tool_masks.py")
MODEL = "seeded:mobile_sam"  # the tools take inputs of 1024 px alone
PROMPTS: list[dict[str, Any]] = [
    {"points": [[200, 150]], "labels": [1]},
    {"points": [[200, 150], [300, 300]], "labels": [1, 0]},
    {"box": [60, 40, 300, 290]},
    {"box": [60, 40, 300, 290], "points": [[200, 150]], "labels": [1]},
]


@pytest.fixture(scope="module")
def image() -> ImageArray:
    """An RGB image of 600 x 400 px, which all tools resize to the same size."""
    found = cv2.imread(str(Path(samedge.__file__).parent / "assets" / "coffee.jpg"))
    assert found is not None
    return np.ascontiguousarray(found[..., ::-1])


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a bundle in an I/O scheme, exported once."""
    made: dict[str, Path] = {}

    def bundle(io: IOScheme) -> Path:
        if io not in made:
            options = ExportOptions(check=False, output=tmp_path_factory.mktemp("bundles") / io).updated(io=io)
            made[io] = export_model(MODEL, options=options)
        return made[io]

    return bundle


def masks_of(
    tool: str, made: Environment, folder: Path, image: ImageArray, prompts: list[dict[str, Any]], place: Path
) -> list[BoolArray]:
    np.save(place / "image.npy", image)
    (place / "prompts.json").write_text(json.dumps(prompts))
    files = (folder, place / "image.npy", place / "prompts.json", place / "masks.npz")
    done = made.run(SCRIPT, tool, *files, HOME=str(place), QT_QPA_PLATFORM="offscreen")
    if "libEGL" in done.stderr or "libGL" in done.stderr or "libxkb" in done.stderr:
        pytest.skip(f"Qt misses a library of the system: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(place / "masks.npz") as saved:
        return [saved[name] for name in saved.files]


def our_masks(folder: Path, image: ImageArray, prompts: list[dict[str, Any]]) -> list[BoolArray]:
    """Return the masks that Meta's graph of one mask chooses: of one click the best of three, otherwise token 0."""
    found = []
    with samedge.load(folder, "onnxruntime", force=True) as predictor:
        predictor.set_image(image[..., ::-1])
        for prompt in prompts:
            points = None if "points" not in prompt else [prompt["points"]]
            labels = None if "labels" not in prompt else [prompt["labels"]]
            boxes = None if "box" not in prompt else [prompt["box"]]
            # Clients append a padding point to boxes too, which Meta's own do not: token 0 either way.
            one = points is not None and len(points[0]) == 1 and boxes is None
            prediction = predictor.predict(points, labels, boxes, multimask=one)
            found.append(prediction.masks[int(prediction.scores.argmax())])
    return found


def ious(ours: list[BoolArray], theirs: list[BoolArray]) -> list[float]:
    return [float((a & b).sum() / (a | b).sum()) for a, b in zip(ours, theirs, strict=True)]


def test_osam(bundles: Any, image: ImageArray, tmp_path: Path) -> None:
    """Labelme's engine."""
    made = environment("osam", "osam==0.8.1")
    theirs = masks_of("osam", made, bundles("osam"), image, PROMPTS, tmp_path)
    ours = our_masks(bundles("osam"), image, PROMPTS)
    assert min(mask.mean() for mask in ours) > 0.01
    assert min(ious(ours, theirs)[:2]) >= 0.999
    assert min(ious(ours, theirs)) >= 0.9  # it appends the padding point to boxes, which changes them a little


@pytest.mark.parametrize(
    ("name", "package"), [("anylabeling", "anylabeling==0.4.43"), ("x-anylabeling", "x-anylabeling-cvhub[cpu]==4.2.1")]
)
def test_anylabeling(name: str, package: str, bundles: Any, image: ImageArray, tmp_path: Path) -> None:
    made = environment(name, package)
    folder = bundles("samexporter")
    # Their code warps every image to 1024 x 684 first: a picture of that size stays as it is.
    whole = np.asarray(cv2.resize(image, (1024, 684)), np.uint8)
    scale = 1024 / image.shape[1]
    prompts = [
        {key: (np.array(value) * scale).tolist() if key != "labels" else value for key, value in prompt.items()}
        for prompt in PROMPTS
    ]
    theirs = masks_of("anylabeling", made, folder, whole, prompts, tmp_path)
    ours = our_masks(folder, whole, prompts)
    assert min(ious(ours, theirs)[:2]) >= 0.999
    assert min(ious(ours, theirs)) >= 0.9  # the padding point at boxes, as above


@pytest.fixture(scope="module")
def samexporter() -> Path:
    """The package's folder: it runs beside our torch, of which it would bring another."""
    made = environment("samexporter", "samexporter==0.5.0", options=("--no-deps",))
    torchvision(), timm()
    return next(made.folder.glob("lib/python*/site-packages"))


def test_samexporters_graphs_run_here(samexporter: Path, image: ImageArray, tmp_path: Path) -> None:
    """The graphs that samexporter writes of a checkpoint have the masks of ours."""
    weights = tmp_path / "sam_vit_b.pth"  # it exports MobileSAM with the batch norms of a random image
    torch.save(seeded_state("sam_vit_b"), weights)
    pair = tmp_path / "pair"
    pair.mkdir()
    begin = "import runpy, sys; from support.reference import timm, torchvision; torchvision(), timm(); "
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", samexporter)))
    common = ["--checkpoint", str(weights), "--model-type", "vit_b"]
    for module, options in (
        ("export_encoder", ["--output", str(pair / "encoder.onnx"), "--use-preprocess"]),
        ("export_decoder", ["--output", str(pair / "decoder.onnx"), "--return-single-mask"]),
    ):
        run = f"runpy.run_module('samexporter.{module}', run_name='__main__')"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", f"{begin}sys.argv[1:] = {[*common, *options]!r}; {run}"],
            env={**os.environ, "PYTHONPATH": paths}, cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        if "ModuleNotFoundError" in done.stderr:
            pytest.skip(f"samexporter misses a package: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr[-3000:]
    own = ExportOptions(check=False, output=tmp_path / "ours")
    found = []
    for folder in (export_model(weights, options=own), pair):
        with samedge.load(folder, "onnxruntime", force=True) as predictor:
            predictor.set_image(image[..., ::-1])
            # Three tokens each: of fewer, the graph chooses another mask.
            two_points = predictor.predict([PROMPTS[1]["points"]], [PROMPTS[1]["labels"]]).masks
            both = predictor.predict([PROMPTS[3]["points"]], boxes=[PROMPTS[3]["box"]]).masks
            found.append([*two_points, *both])
    assert min(mask.mean() for mask in found[0]) > 0.01
    assert min(ious(*found)) >= 0.999


def test_metas_flow(image: ImageArray, tmp_path: Path) -> None:
    """Meta's `SamPredictor` encodes, and the graph of ``--io meta`` answers, as in its ONNX notebook."""
    sam = reference_sam(seeded_state(SMALL_VIT), SMALL_VIT)
    predictor = segment_anything().SamPredictor(sam)
    folder = export_model("seeded:sam_vit_tiny", output=tmp_path / "meta", io="meta")
    (decoder,) = folder.glob("*.decoder.single.onnx")
    session = onnxruntime.InferenceSession(str(decoder), providers=["CPUExecutionProvider"])
    predictor.set_image(image)
    points, labels = np.array([[200, 150], [300, 300]]), np.array([1, 0])
    coords = predictor.transform.apply_coords(np.concatenate([points, [[0.0, 0.0]]])[None], image.shape[:2])
    masks, scores, _ = session.run(
        None,
        {
            "image_embeddings": predictor.get_image_embedding().numpy(),
            "point_coords": coords.astype(np.float32),
            "point_labels": np.concatenate([labels, [-1]])[None].astype(np.float32),
            "mask_input": np.zeros((1, 1, 32, 32), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array(image.shape[:2], np.float32),
        },
    )
    wanted, wanted_scores, _ = predictor.predict(points, labels, multimask_output=False)
    assert min(ious(list(masks[0] > predictor.model.mask_threshold), list(wanted))) >= 0.999
    np.testing.assert_allclose(scores[0], wanted_scores, atol=1e-5)


def test_optimums_graphs_run_here(image: ImageArray, tmp_path: Path) -> None:
    """The graphs that optimum writes of transformers' model, those of transformers.js, have the masks of our export."""
    made = environment(
        "optimum", "optimum-onnx==0.1.0", "optimum==2.1.0", "transformers==4.57.6", "tokenizers==0.22.2",
        "huggingface_hub==0.36.2", "requests", "urllib3", "certifi", "charset-normalizer", "idna",
        options=("--no-deps",),
    )  # fmt: skip
    packages = next(made.folder.glob("lib/python*/site-packages"))  # beside our torch
    paths = os.pathsep.join(map(str, (packages, ROOT, ROOT / "tests")))
    script = Path(__file__).with_name("optimum_export.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, tmp_path / "model", tmp_path / "graphs"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    own = ExportOptions(check=False, output=tmp_path / "own")
    found, embeddings = [], []
    for folder in (export_model(tmp_path / "model", options=own), tmp_path / "graphs"):
        with samedge.load(folder, "onnxruntime", force=True) as predictor:
            predictor.set_image(image[..., ::-1])
            embeddings.append(predictor.image_embedding)
            points = [[[200, 150], [300, 300]], [[100, 100], [50, 50]]]
            found.append(predictor.predict(points, [[1, 0], [1, 1]], multimask=True).masks)
    assert embeddings[0].std() > 0.1
    assert np.abs(embeddings[0] - embeddings[1]).max() < 1e-4
    assert all(mask.any() for mask in found[0])
    assert min(ious(*map(list, found))) >= 0.999
