"""Graphs of other exporters open, and give the masks of the native bundle of the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import write_small_bundle
from support.foreign_graphs import SIDE, write_graph, write_metas_own, write_pair

import samedge
from samedge.errors import BundleError, PromptError, UsageError
from samedge.runtime.predictor import Predictor

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
SQUARE = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
POINTS = [[40.0, 30.0], [10.0, 50.0], [70.0, 5.0]]
BOXES = [[5.0, 5.0, 60.0, 40.0], [20.0, 10.0, 79.0, 59.0]]

PAIRS = {
    "Meta": ("image", "meta"),
    "Meta's encoder under osam's name": ("x", "meta"),
    "samexporter": ("input_image_hwc", "meta"),
    "CVAT": ("image", "cvat"),
    "masks at image size only": ("image", "meta_masks"),
    "nanosam": ("image", "nanosam"),
    "EdgeSAM": ("image", "edgesam"),
    "EfficientViT-SAM XL": ("input_image", "efficientvit"),
    "optimum": ("pixel_values", "optimum"),
    "SAM-HQ": ("hq", "hq_decoder"),
}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with samedge.load(write_small_bundle(tmp_path_factory.mktemp("native") / "small-samedge"), "onnxruntime") as found:
        found.set_image(IMAGE)
        yield found


def opened(folder: Path, image: Any = IMAGE) -> Predictor:
    predictor = samedge.load(folder, "onnxruntime", "cpu")
    assert isinstance(predictor, Predictor)
    predictor.set_image(image)
    return predictor


def assert_alike(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got.scores, want.scores, atol=2e-5)
    assert (got.masks == want.masks).mean() > 0.9999


@pytest.mark.parametrize("name", PAIRS)
def test_each_dialect_gives_the_masks_of_the_native_bundle(tmp_path: Path, native: Predictor, name: str) -> None:
    with opened(write_pair(*PAIRS[name], tmp_path)) as predictor:
        assert predictor.info.parity.verdict == "unchecked"
        assert predictor.info.input.image_size == SIDE
        single = name == "SAM-HQ"
        if not single:
            assert_alike(predictor.predict(POINTS, multimask=True), native.predict(POINTS, multimask=True))
        if name != "optimum":
            assert_alike(predictor.predict(POINTS), native.predict(POINTS))
            assert_alike(predictor.predict(boxes=BOXES), native.predict(boxes=BOXES))
            assert_alike(predictor.predict(POINTS[:2], boxes=BOXES), native.predict(POINTS[:2], boxes=BOXES))


@pytest.mark.parametrize("package", ["segment_anything", "mobile_sam"])
def test_graphs_written_by_metas_and_mobilesams_own_exporter(tmp_path: Path, native: Predictor, package: str) -> None:
    write_graph("image", tmp_path / "encoder.onnx")
    write_metas_own(tmp_path / "decoder.onnx", package)
    with opened(tmp_path) as predictor:
        assert_alike(predictor.predict(POINTS, multimask=True), native.predict(POINTS, multimask=True))
        assert_alike(predictor.predict(boxes=BOXES), native.predict(boxes=BOXES))
    write_metas_own(tmp_path / "decoder.onnx", package, single=True)
    with opened(tmp_path) as predictor:
        assert predictor.graphs.decoder.mask_count == 1
        assert predictor.predict(POINTS).masks.shape == (3, 60, 80)


@pytest.mark.parametrize("name", ["Meta", "CVAT", "nanosam", "SAM-HQ"])
def test_mask_prompts(tmp_path: Path, native: Predictor, name: str) -> None:
    mask = native.predict(POINTS[:1]).low_res_logits
    with opened(write_pair(*PAIRS[name], tmp_path)) as predictor:
        assert_alike(predictor.predict(POINTS[1:2], masks=mask), native.predict(POINTS[1:2], masks=mask))


def test_without_the_first_mask_the_best_of_the_others_stands_for_it(tmp_path: Path, native: Predictor) -> None:
    want = native.predict(POINTS, multimask=True)
    best = want.scores.reshape(3, 3).argmax(1) + 3 * np.arange(3)
    with opened(write_pair("pixel_values", "optimum", tmp_path)) as predictor:
        got = predictor.predict(POINTS)
        np.testing.assert_allclose(got.scores, want.scores[best], atol=2e-5)
        assert (got.masks == want.masks[best]).mean() > 0.9999
        embedding = predictor.image_embedding
        predictor.set_embedding(embedding, 60, 80)  # positions are the same for every image
        assert_alike(predictor.predict(POINTS), got)


def test_efficientsam_stretches_images_and_fills_points_up_to_six(tmp_path: Path, native: Predictor) -> None:
    twin = native.twin()
    twin.set_image(SQUARE)
    padded = np.array([[[40.0, 30.0], *[[0, 0]] * 4]])
    want = twin.predict(padded, np.array([[1, -1, -1, -1, -1]]), multimask=True)
    folder = write_pair("batched_images", "efficientsam", tmp_path)
    with opened(folder, SQUARE) as predictor:
        assert_alike(predictor.predict([[40.0, 30.0]], multimask=True), want)
    with opened(folder) as predictor:  # 60 x 80
        assert predictor.geometry.resized_height == predictor.geometry.resized_width == SIDE
        assert predictor.predict(POINTS).masks.shape == (3, 60, 80)
        with pytest.raises(PromptError, match=r"takes no points beside the object.*EfficientSAM"):
            predictor.predict([[POINTS[0], POINTS[1]]], [[1, 0]])
        with pytest.raises(PromptError, match=r"more than 6 points"):
            predictor.predict([[POINTS[0]] * 7])


def test_an_encoder_of_half_the_size_of_prompts(tmp_path: Path) -> None:
    with opened(write_pair("half", "efficientvit", tmp_path)) as predictor:
        assert predictor.info.input.image_size == SIDE
        assert predictor.predict(POINTS).masks.shape == (3, 60, 80)


def test_prompts_that_a_graph_does_not_take_are_refused(tmp_path: Path, native: Predictor) -> None:
    mask = native.predict(POINTS[:1]).low_res_logits
    with opened(write_pair("pixel_values", "optimum", tmp_path / "optimum")) as predictor:
        with pytest.raises(PromptError, match=r"takes no boxes.*samedge export"):
            predictor.predict(boxes=BOXES)
        with pytest.raises(PromptError, match=r"takes no mask prompts"):
            predictor.predict(POINTS[:1], masks=mask)
    with opened(write_pair("image", "meta_single", tmp_path / "single")) as predictor:
        assert predictor.predict(POINTS).masks.shape == (3, 60, 80)
        assert len(predictor.everything(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0)) > 0
        with pytest.raises(UsageError, match=r"returns one mask for each prompt.*Leave out multimask"):
            predictor.predict(POINTS, multimask=True)


def test_features_are_saved_with_the_embedding(tmp_path: Path, native: Predictor) -> None:
    with opened(write_pair("hq", "hq_decoder", tmp_path)) as predictor:
        want = predictor.predict(POINTS)
        values = predictor.image_embedding
        predictor.save_embedding(tmp_path / "image.npz")
        predictor.reset_image()
        predictor.load_embedding(tmp_path / "image.npz")
        assert_alike(predictor.predict(POINTS), want)
        with pytest.raises(UsageError, match=r"lacks 'interm_embeddings'"):
            predictor.set_embedding(values, 60, 80)


def test_everything_and_streams(tmp_path: Path, native: Predictor) -> None:
    options: Any = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "crop_n_layers": 1}
    with opened(write_pair("hq", "meta", tmp_path / "meta")) as predictor:
        assert len(predictor.everything(**options)) > 0
    with opened(write_pair("pixel_values", "optimum", tmp_path / "optimum")) as predictor:
        want, got = native.everything(**options), predictor.everything(**options)
        assert len(got) == len(want)
        for item in predictor.stream([IMAGE, IMAGE], {"points": POINTS}):
            assert item.result.masks.shape == (3, 60, 80)


class TestFinding:
    def test_two_files_anywhere(self, tmp_path: Path) -> None:
        encoder = write_graph("image", tmp_path / "a" / "one.onnx")
        decoder = write_graph("meta", tmp_path / "b" / "two.onnx")
        with samedge.load(encoder=encoder, decoder=decoder, backend="onnxruntime") as predictor:
            predictor.set_image(IMAGE)
            assert predictor.predict(POINTS).masks.any()
        with pytest.raises(BundleError, match=r"not an encoder of a SAM.*decoder: samedge or Meta.*samedge inspect"):
            samedge.load(encoder=decoder, decoder=encoder)
        with pytest.raises(UsageError, match=r"neither a bundle nor a pair"):
            samedge.load(encoder=encoder)  # type: ignore[call-overload]

    def test_the_folder_of_the_hub(self, tmp_path: Path) -> None:
        write_graph("pixel_values", tmp_path / "onnx" / "vision_encoder.onnx")
        write_graph("pixel_values", tmp_path / "onnx" / "vision_encoder_quantized.onnx")
        write_graph("optimum", tmp_path / "onnx" / "prompt_encoder_mask_decoder.onnx")
        with samedge.load(tmp_path, "onnxruntime") as predictor:
            assert predictor.info.graph("encoder").graph.file == "onnx/vision_encoder.onnx"
            assert predictor.info.io == "pixel_values+optimum"

    def test_of_several_models_one_is_named(self, tmp_path: Path) -> None:
        for name in ("toy_b", "toy_h"):
            write_graph("image", tmp_path / f"{name}.encoder.onnx")
            write_graph("meta", tmp_path / f"{name}.decoder.onnx")
        with pytest.raises(BundleError, match=r"2 encoders: toy_b\.encoder\.onnx, toy_h\.encoder\.onnx"):
            samedge.load(tmp_path)
        with samedge.load(tmp_path / "toy_h.decoder.onnx", "onnxruntime") as predictor:
            assert predictor.info.model.checkpoint == "toy_h.encoder.onnx"
            assert predictor.info.model.name == "toy_h"

    def test_what_does_not_belong_together(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"reads 'interm_embeddings', which the encoder .* does not give"):
            samedge.load(write_pair("image", "hq_decoder", tmp_path / "hq"))
        write_graph("image", tmp_path / "alone" / "encoder.onnx")
        with pytest.raises(BundleError, match=r"there is no decoder of a SAM among encoder\.onnx"):
            samedge.load(tmp_path / "alone")
