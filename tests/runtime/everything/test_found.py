"""What segment everything returns: arrays, lazily drawn masks, Meta's records, results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samedge.errors import UsageError
from samedge.runtime.everything.found import FoundMasks
from samedge.runtime.masks.rle import decode_rle, encode_rle, encode_uncompressed_rle
from samedge.testing.predictor import fake_predictor

DISCS: dict[str, Any] = {"points_per_side": 4, "pred_iou_thresh": 0.75}


@pytest.fixture(scope="module")
def found() -> FoundMasks:
    return fake_predictor(image_size=256).everything(np.zeros((192, 256, 3), np.uint8), **DISCS)


def test_arrays(found: FoundMasks) -> None:
    assert len(found) == 16
    assert found.masks.shape == (16, 192, 256)
    assert found.masks is found.masks
    assert found.boxes.shape == (16, 4)
    assert found.crop_box.tolist() == [[0, 0, 256, 192]] * 16
    assert found.point_coords[0].tolist() == [32, 24]
    assert found.predicted_iou.tolist() == pytest.approx([0.8] * 16)
    assert (found.stability_score > 0.9).all()
    for mask, one, rle, box in zip(found.masks, found.iter_masks(), found.rles, found.boxes, strict=True):
        np.testing.assert_array_equal(mask, one)
        assert rle == encode_rle(mask)
        ys, xs = np.nonzero(mask)
        assert box.tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]


def test_records_in_three_forms(found: FoundMasks) -> None:
    for record, rle, mask in zip(found.records(), found.records("coco_rle"), found.masks, strict=True):
        np.testing.assert_array_equal(record["segmentation"], mask)
        assert rle["segmentation"] == encode_rle(mask)
        assert record["area"] == rle["area"] == mask.sum()
        assert record["crop_box"] == [0, 0, 256, 192]
    for record, mask in zip(found.records("uncompressed_rle"), found.masks, strict=True):
        assert record["segmentation"] == encode_uncompressed_rle(mask)
    left, top, width, height = found.records()[0]["bbox"]
    assert found.boxes[0].tolist() == [left, top, left + width, top + height]
    with pytest.raises(UsageError, match="unknown output mode 'png'"):
        found.records("png")  # type: ignore[arg-type]


def test_records_may_be_changed(found: FoundMasks) -> None:
    segmentation: Any = found.records("coco_rle")[0]["segmentation"]
    segmentation["counts"] = ""
    assert decode_rle(found.rles[0]).any()


def test_results(found: FoundMasks) -> None:
    image = np.zeros((192, 256, 3), np.uint8)
    results = found.results(image, path="a.png")
    assert results.path == "a.png"
    assert results.to_rle() == [*found.rles]
    assert results.masks is not None
    assert results.boxes is not None
    np.testing.assert_array_equal(results.boxes.xyxy, found.boxes)
    np.testing.assert_array_equal(results[[2, 5]].masks.data, found.masks[[2, 5]])  # type: ignore[union-attr]
    assert results.plot().shape == image.shape
    assert set(results.speed) == {"preprocess", "inference", "postprocess"}


def test_nothing(tmp_path: Path) -> None:
    empty = fake_predictor().everything(np.zeros((30, 40, 3), np.uint8))
    assert (len(empty), empty.masks.shape, empty.records()) == (0, (0, 30, 40), [])
    assert empty.results(np.zeros((30, 40, 3), np.uint8)).masks is None


class TestPresentImage:
    def test_the_image_that_is_set_is_not_encoded_again(self) -> None:
        predictor = fake_predictor(image_size=256)
        predictor.set_image(np.zeros((192, 256, 3), np.uint8))
        before = predictor.image_embedding
        assert len(predictor.everything(**DISCS)) == 16
        assert predictor.image_embedding is before
        assert predictor.speed["inference"] > 0

    def test_crops_need_pixels(self, tmp_path: Path) -> None:
        predictor = fake_predictor(image_size=256)
        predictor.set_image(np.zeros((192, 256, 3), np.uint8))
        cropped = predictor.everything(**DISCS, crop_n_layers=1)
        assert cropped.statistics.crops_encoded == 4
        assert cropped.statistics.decoder_prompts == 5 * 16
        predictor.save_embedding(tmp_path / "image.npz")
        predictor.load_embedding(tmp_path / "image.npz")
        assert len(predictor.everything(**DISCS)) == 16
        with pytest.raises(
            UsageError, match="crop_n_layers: crops need the image, but only its embedding is available"
        ):
            predictor.everything(**DISCS, crop_n_layers=1)

    def test_without_an_image(self) -> None:
        with pytest.raises(UsageError, match="no image is set"):
            fake_predictor().everything()
