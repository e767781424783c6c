"""Whole predictions are those of Meta's SamPredictor, for every I/O scheme, size of image and kind of prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import reference
from support.bundles import model_record, write_small_bundle

from samedge.api.load import load
from samedge.bundle.manifest import SCHEMA_VERSION, InputRecord, Manifest, ParityRecord
from samedge.models.sam.build import empty_sam
from samedge.models.sam.configs import IMAGENET, SMALL_VIT
from samedge.models.sam.seeded import seeded_state
from samedge.runtime.predictor import Predictor
from samedge.runtime.results.prediction import Prediction
from samedge.testing.engine import fake_engine
from samedge.types import Array, BoolArray, ImageArray, TensorSpec

F32 = np.dtype(np.float32)
SIDE = 32
LOGITS = np.random.default_rng(5).normal(0, 5, (2, SIDE, SIDE)).astype(np.float32)


def torch_predictor() -> Predictor:
    """A predictor whose graphs are the torch model itself: exact, and nothing but the runtime is tested."""
    sam = empty_sam(SMALL_VIT)
    sam.load_state_dict(seeded_state(SMALL_VIT))
    image = {"image": TensorSpec((1, 3, 128, 128), F32)}
    embedding = {"image_embeddings": TensorSpec((1, 256, 8, 8), F32)}
    prompts = {
        **embedding,
        "point_coords": TensorSpec(("prompts", "points", 2), F32),
        "point_labels": TensorSpec(("prompts", "points"), np.dtype(np.int32)),
        "mask_input": TensorSpec(("prompts", 1, SIDE, SIDE), F32),
        "has_mask_input": TensorSpec(("prompts",), F32),
    }
    masks = {
        "low_res_masks": TensorSpec(("prompts", 4, SIDE, SIDE), F32),
        "iou_predictions": TensorSpec(("prompts", 4), F32),
    }

    @torch.no_grad()
    def encode(feeds: dict[str, Array]) -> dict[str, Array]:
        return {"image_embeddings": sam.encode(torch.from_numpy(feeds["image"])).numpy()}

    @torch.no_grad()
    def decode(feeds: dict[str, Array]) -> dict[str, Array]:
        low_res, scores = sam.decode(*(torch.from_numpy(feeds[name].copy()) for name in prompts))
        return {"low_res_masks": low_res.numpy(), "iou_predictions": scores.numpy()}

    manifest = Manifest(
        schema=SCHEMA_VERSION,
        model=model_record(),
        input=InputRecord(
            image_size=128, pixel_mean=IMAGENET.pixel_mean, pixel_std=IMAGENET.pixel_std, mask_threshold=0.0
        ),
        io="native",
        graphs=(),
        parity=ParityRecord(verdict="unchecked"),
        created="",
        versions={},
    )
    return Predictor(manifest, fake_engine(image, embedding, encode), fake_engine(prompts, masks, decode))


@pytest.fixture(scope="module")
def exact() -> Predictor:
    return torch_predictor()


@pytest.fixture(scope="module", params=["native", "meta", "samexporter"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    folder = write_small_bundle(tmp_path_factory.mktemp("bundles") / request.param, request.param)
    with load(folder, threads=1) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def meta() -> Any:
    return reference.segment_anything().SamPredictor(reference.reference_sam(seeded_state(SMALL_VIT), SMALL_VIT))


def draw(height: int, width: int, seed: int = 3) -> ImageArray:
    """Coloured rectangles on noise, BGR."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    for _ in range(4):
        y, x = rng.integers(0, height), rng.integers(0, width)
        image[y : y + height // 3 + 1, x : x + width // 3 + 1] = rng.integers(0, 255, 3, dtype=np.uint8)
    return image


def agree(a: BoolArray, b: BoolArray) -> float:
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else np.count_nonzero(a & b) / union


def compare(got: Prediction, meta: Any, *, multimask: bool, **prompt: Any) -> None:
    """One prompt against the reference's answer to it."""
    masks, scores, low_res = meta.predict(multimask_output=multimask, **prompt)
    assert len(got) == (3 if multimask else 1)
    assert got.masks.shape == masks.shape
    np.testing.assert_allclose(got.scores, scores, atol=1e-4)
    np.testing.assert_allclose(got.low_res_logits, low_res, atol=1e-3)
    for ours, theirs in zip(got.masks, masks, strict=True):
        assert agree(ours, theirs) >= 0.999


def prompts_for(height: int, width: int) -> list[dict[str, Any]]:
    """Each kind of prompt, in the reference's words; coordinates as floats with fractions."""
    xy = np.array([[0.3, 0.4], [0.8, 0.7], [0.55, 0.2]]) * (width, height)
    box = np.array([0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height])
    return [
        {"point_coords": xy[:1], "point_labels": np.array([1])},
        {"point_coords": xy, "point_labels": np.array([1, 0, 1])},
        {"box": box},
        {"point_coords": xy[:2], "point_labels": np.array([1, 0]), "box": box},
        {"mask_input": LOGITS[:1]},
        {"point_coords": xy[:1], "point_labels": np.array([0]), "mask_input": LOGITS[:1]},
        {"box": box, "mask_input": LOGITS[1:]},
        {"point_coords": xy[:1], "point_labels": np.array([1]), "box": box, "mask_input": LOGITS[:1]},
    ]


def ours(prompt: dict[str, Any]) -> dict[str, Any]:
    """The same prompt in our words."""
    renamed: dict[str, Any] = {}
    if "point_coords" in prompt:
        renamed |= {"points": prompt["point_coords"][None], "labels": prompt["point_labels"][None]}
    if "box" in prompt:
        renamed["boxes"] = prompt["box"]
    if "mask_input" in prompt:
        renamed["masks"] = prompt["mask_input"]
    return renamed


def check_image(predictor: Predictor, meta: Any, bgr: ImageArray, kinds: slice = slice(None)) -> None:
    predictor.set_image(bgr)
    meta.set_image(np.ascontiguousarray(bgr[..., ::-1]))
    np.testing.assert_allclose(predictor.image_embedding, meta.get_image_embedding().numpy(), atol=1e-4)
    for prompt in prompts_for(*bgr.shape[:2])[kinds]:
        for multimask in (False, True):
            compare(predictor.predict(**ours(prompt), multimask=multimask), meta, multimask=multimask, **prompt)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (3, 5), (96, 128), (480, 640), (640, 480), (128, 128), (1000, 250), (250, 1000)]
)
def test_every_kind_of_prompt_at_sizes_from_one_pixel(exact: Predictor, meta: Any, height: int, width: int) -> None:
    check_image(exact, meta, draw(height, width))


@pytest.mark.parametrize(("height", "width"), [(10000, 90), (90, 10000), (10000, 3000)])
def test_ten_thousand_pixels(exact: Predictor, meta: Any, height: int, width: int) -> None:
    check_image(exact, meta, draw(height, width), slice(3, 4))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 7), st.integers(0, 99))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_size(exact: Predictor, meta: Any, height: int, width: int, kind: int, seed: int) -> None:
    if min(height, width) * 128 < 0.5 * max(height, width):
        return  # the reference fails where a side is rounded to 0 px
    check_image(exact, meta, draw(height, width, seed), slice(kind, kind + 1))


@pytest.mark.parametrize(("height", "width"), [(1, 10000), (10000, 1), (4, 30000), (30000, 4)])
def test_where_the_reference_fails_there_is_still_a_mask(exact: Predictor, height: int, width: int) -> None:
    exact.set_image(draw(height, width))
    prediction = exact.predict(points=[width / 2, height / 2])
    assert prediction.masks.shape == (1, height, width)
    assert np.isfinite(prediction.scores).all()


@pytest.mark.parametrize(("height", "width"), [(90, 120), (300, 70)])
def test_exported_graphs_of_every_scheme(exported: Predictor, meta: Any, height: int, width: int) -> None:
    check_image(exported, meta, draw(height, width))


def test_a_panorama_through_every_scheme(exported: Predictor, meta: Any) -> None:
    check_image(exported, meta, draw(100, 400), slice(0, 1))
    exported.set_image(draw(1, 10000))
    assert exported.predict(boxes=[0, 0, 5000, 1]).masks.shape == (1, 1, 10000)


def mixture(rng: np.random.Generator, count: int, height: int, width: int) -> dict[str, Any]:
    """Prompts of every kind, one entry each: some with points, some with boxes, some with masks."""
    rows: dict[str, Any] = {"points": [], "labels": [], "boxes": [], "masks": []}
    for _ in range(count):
        points, box, mask = 0, False, False
        while not (points or box or mask):
            points, box, mask = int(rng.integers(0, 4)), rng.random() < 0.4, rng.random() < 0.3
        corners = np.sort(rng.random((2, 2)), axis=0) * (width, height)
        rows["points"].append(rng.random((points, 2)) * (width, height) if points else None)
        rows["labels"].append(rng.integers(0, 2, points) if points else None)
        rows["boxes"].append(corners.reshape(4) if box else None)
        rows["masks"].append(LOGITS[int(rng.integers(0, 2))] if mask else None)
    return rows


@pytest.mark.parametrize(("seed", "chunk"), [(0, 16), (1, 1), (2, 3), (3, 7)])
@pytest.mark.parametrize("multimask", [False, True])
def test_any_mixture_equals_one_by_one(exact: Predictor, seed: int, chunk: int, multimask: bool) -> None:
    exact.set_image(draw(90, 120))
    rows = mixture(np.random.default_rng(seed), 17, 90, 120)
    exact.prompts_per_call = chunk
    together = exact.predict(**rows, multimask=multimask)
    exact.prompts_per_call = 16
    each = 3 if multimask else 1
    assert len(together) == 17 * each
    np.testing.assert_array_equal(together.prompt_index, np.repeat(np.arange(17), each))
    for at in range(17):
        row: dict[str, Any] = {name: [entries[at]] for name, entries in rows.items()}
        alone = exact.predict(**row, multimask=multimask)
        part = slice(at * each, (at + 1) * each)
        np.testing.assert_allclose(together.low_res_logits[part], alone.low_res_logits, atol=1e-4)
        np.testing.assert_allclose(together.scores[part], alone.scores, atol=1e-5)
        np.testing.assert_array_equal(together.mask_index[part], alone.mask_index)


def test_mixtures_through_every_scheme(exported: Predictor, exact: Predictor) -> None:
    rows = mixture(np.random.default_rng(9), 11, 90, 120)
    for predictor in (exported, exact):
        predictor.set_image(draw(90, 120))
    got, expected = exported.predict(**rows, multimask=True), exact.predict(**rows, multimask=True)
    np.testing.assert_allclose(got.low_res_logits, expected.low_res_logits, atol=1e-3)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-4)
    np.testing.assert_array_equal(got.prompt_index, expected.prompt_index)


def test_points_and_boxes_as_arrays_equal_one_by_one(exact: Predictor) -> None:
    exact.set_image(draw(90, 120))
    rng = np.random.default_rng(1)
    points: NDArray[np.float64] = rng.random((9, 2)) * (120, 90)
    boxes = np.sort(rng.random((9, 2, 2)), axis=1).reshape(9, 4) * (120, 90, 120, 90)
    kinds: list[dict[str, Any]] = [{"points": points}, {"boxes": boxes}, {"points": points, "boxes": boxes}]
    for prompts in kinds:
        together = exact.predict(**prompts)
        for at in range(9):
            alone = exact.predict(**{name: rows[at] for name, rows in prompts.items()})
            np.testing.assert_allclose(together[at].low_res_logits, alone.low_res_logits, atol=1e-4)


def test_a_mask_refines_as_in_the_reference(exact: Predictor, meta: Any) -> None:
    bgr = draw(90, 120)
    exact.set_image(bgr)
    meta.set_image(np.ascontiguousarray(bgr[..., ::-1]))
    first = exact.predict(points=[60, 40])
    second = exact.predict(points=[60, 40], masks=first.low_res_logits)
    click = {"point_coords": np.array([[60, 40]]), "point_labels": np.array([1])}
    *_, low_res = meta.predict(**click, multimask_output=False)
    compare(second, meta, multimask=False, **click, mask_input=low_res)


def test_the_path_the_array_and_the_pil_image_give_the_same(exact: Predictor, tmp_path: Path) -> None:
    import cv2
    from PIL import Image

    bgr = draw(60, 80)
    cv2.imwrite(str(tmp_path / "image.png"), bgr)
    sources = (bgr, tmp_path / "image.png", str(tmp_path / "image.png"), Image.fromarray(bgr[..., ::-1].copy()))
    embeddings = []
    for source in sources:
        exact.set_image(source)
        embeddings.append(exact.image_embedding)
    for embedding in embeddings[1:]:
        np.testing.assert_array_equal(embedding, embeddings[0])
