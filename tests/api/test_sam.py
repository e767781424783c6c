"""`SAM` and `SAMPredictor`: the names, shapes and defaults that people know, on a predictor that draws its prompts."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from support.bundles import pack, write_any_bundle, write_small_bundle
from support.videos import write_video

import samedge
from samedge.api import sam as api
from samedge.api.sam import SAM
from samedge.api.sam_predictor import SAMPredictor
from samedge.errors import (
    BundleError,
    DeviceUnavailableError,
    ImageError,
    MissingExtraError,
    ParityError,
    PromptError,
    StorageError,
    UsageError,
)
from samedge.runtime.decoder.schemes import SamGraphs
from samedge.runtime.image.sources import Source, iter_sources
from samedge.runtime.masks.rle import decode_rle
from samedge.runtime.predictor import Predictor
from samedge.runtime.results.prediction import Prediction
from samedge.runtime.results.results import Results
from samedge.testing.predictor import FAKE_SCORES, fake_predictor
from samedge.types import FloatArray, ImageArray

SIDE = 256
TINY = "seeded:sam_vit_tiny"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own for every test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SAMEDGE_CACHE", str(folder))
    return folder


def picture(height: int = SIDE, width: int = SIDE, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Puts predictors that draw their prompts in place of bundles; returns how each was opened."""
    calls: list[dict[str, Any]] = []

    def load(bundle: Path, **options: Any) -> Predictor:
        calls.append({"bundle": bundle, **options})
        return fake_predictor(image_size=SIDE)

    monkeypatch.setattr(api, "load", load)
    return calls


@pytest.fixture
def sam(tmp_path: Path, opened: list[dict[str, Any]]) -> SAM:
    return SAM(tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images whose order by name is not their order by number, and a file that is no image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (1, 2, 10):
        cv2.imwrite(str(folder / f"frame{number}.png"), picture(seed=number))
    (folder / "notes.txt").write_text("no image")
    return folder


def rescored(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Gives the masks of each prediction other scores."""
    predict = Predictor.predict

    def scored(self: Predictor, *args: Any, **named: Any) -> Prediction:
        conf = named.pop("conf", None)
        prediction = replace(predict(self, *args, **named), scores=np.array(scores, np.float32))
        return prediction if conf is None else prediction[prediction.scores > conf]

    monkeypatch.setattr(Predictor, "predict", scored)


class TestPrompts:
    @pytest.mark.parametrize(
        ("prompts", "count"),
        [
            ({"points": [100, 50]}, 1),
            ({"points": [100, 50], "labels": [1]}, 1),
            ({"points": [[100, 50], [20, 30]]}, 2),
            ({"points": [[100, 50], [20, 30]], "labels": [1, 1]}, 2),
            ({"points": [[[100, 50], [20, 30]]], "labels": [[1, 0]]}, 1),
            ({"points": np.array([[[100, 50], [20, 30]], [[1, 2], [3, 4]]]), "labels": np.ones((2, 2), int)}, 2),
            ({"bboxes": [10, 20, 100, 90]}, 1),
            ({"bboxes": np.array([[10, 20, 100, 90], [0, 0, 30, 40], [5, 5, 9, 9]], np.float32)}, 3),
            ({"bboxes": [[10, 20, 100, 90], [0, 0, 30, 40]], "points": [[50, 50], [10, 10]], "labels": [1, 1]}, 2),
            ({"masks": np.ones((SIDE, SIDE), np.uint8)}, 1),
            ({"masks": np.zeros((2, SIDE // 4, SIDE // 4), np.float32), "points": [[1, 2], [3, 4]]}, 2),
        ],
    )  # fmt: skip
    def test_shapes_people_know(self, sam: SAM, prompts: dict[str, Any], count: int) -> None:
        (results,) = sam(picture(), **prompts)
        assert len(results) == count
        assert results.prompt_index.tolist() == list(range(count))
        assert results.masks is not None
        assert results.boxes is not None
        assert results.masks.data.shape == (count, SIDE, SIDE)
        assert results.masks.data.dtype == np.bool_
        assert results.boxes.data.shape == (count, 6)
        assert results.boxes.conf.tolist() == pytest.approx([FAKE_SCORES[0]] * count)
        assert results.boxes.cls.tolist() == list(range(count))

    def test_boxes_become_tight_boxes_of_masks_in_pixels_of_the_image(self, sam: SAM) -> None:
        (results,) = sam(picture(SIDE, 2 * SIDE), bboxes=[[64, 32, 256, 128], [16, 16, 48, 64]])
        assert results.boxes is not None
        assert results.boxes.xyxy.tolist() == [[64, 32, 255, 127], [16, 16, 47, 63]]
        assert results.orig_shape == (SIDE, 2 * SIDE)

    def test_a_negative_point_counts(self, sam: SAM) -> None:
        """Users of older tools had it ignored: two points gave two masks."""
        (both,) = sam(picture(), points=[[[128, 128], [140, 128]]], labels=[[1, 0]])
        assert both.masks is not None
        (mask,) = both.masks.data
        assert mask[128, 104]
        assert not mask[128, 140]

    def test_three_masks_a_prompt(self, sam: SAM) -> None:
        (results,) = sam(picture(), bboxes=[[10, 20, 100, 90], [0, 0, 30, 40]], multimask_output=True)
        assert results.prompt_index.tolist() == [0, 0, 0, 1, 1, 1]
        assert results.boxes is not None
        assert results.boxes.conf.tolist() == pytest.approx([*FAKE_SCORES[1:]] * 2)
        assert results.dropped == ()

    @pytest.mark.parametrize(
        ("prompts", "message"),
        [
            ({"labels": [1]}, "labels were given without points"),
            (
                {"points": [1, 2], "crop_n_layers": 1},
                "crop_n_layers is an option of segment everything, but prompts were given",
            ),
            ({"points_stride": 0}, "points_per_side: invalid points_per_side 0. Give a whole number, 1 or more"),
            ({"conf_thres": 0.5, "pred_iou_thresh": 0.5}, "are the same parameter"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_requests_that_mean_nothing_are_told_before_any_work(
        self, opened: list[dict[str, Any]], sam: SAM, prompts: dict[str, Any], message: str, stream: bool
    ) -> None:
        with pytest.raises(UsageError, match=message):
            sam("no such file", stream=stream, **prompts)
        assert opened == []

    @pytest.mark.parametrize(
        ("prompts", "message"),
        [
            ({"points": [[1, 2], [3, 4]], "labels": [1]}, "label"),
            ({"points": [900, 2]}, "outside"),
            ({"bboxes": [1, 2, 3]}, "box"),
            ({"points": [float("nan"), 2]}, "nan"),
        ],
    )
    def test_wrong_prompts_are_loud(self, sam: SAM, prompts: dict[str, Any], message: str) -> None:
        with pytest.raises(PromptError, match=message):
            sam(picture(), **prompts)

    def test_a_name_that_is_not_known_is_refused(self, sam: SAM) -> None:
        with pytest.raises(TypeError, match="bbox"):
            sam(picture(), bbox=[1, 2, 3, 4])  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="did you mean 'points_stride'"):
            sam(picture(), point_strides=4)  # type: ignore[call-overload]


DISCS: dict[str, Any] = {"points_stride": 4, "conf_thres": 0.75}
"""With these the fake model finds a disc of 1/16 of the image's side around each of 16 points, score 0.8."""


class TestEverything:
    def test_without_prompts(self, sam: SAM) -> None:
        (results,) = sam(picture(), **DISCS)
        assert results.boxes is not None
        assert results.masks is not None
        assert results.masks.data.shape == (16, SIDE, SIDE)
        assert results.boxes.conf.tolist() == pytest.approx([FAKE_SCORES[1]] * 16)
        assert results.boxes.cls.tolist() == results.prompt_index.tolist() == list(range(16))
        left, top, right, bottom = results.boxes.xyxy[0]
        assert (left + right) / 2 == pytest.approx(32, abs=1)
        assert (top + bottom) / 2 == pytest.approx(32, abs=1)
        assert set(results.speed) == {"preprocess", "inference", "postprocess"}
        assert None not in results.speed.values()

    def test_the_defaults_are_strict(self, sam: SAM) -> None:
        (results,) = sam(picture())
        assert len(results) == 0
        assert results.masks is None

    def test_conf_drops_as_well(self, sam: SAM) -> None:
        assert len(sam(picture(), **DISCS, conf=0.8)[0]) == 0
        assert len(sam(picture(), **DISCS, conf=None)[0]) == 16

    def test_images_one_after_the_other(self, sam: SAM, photos: Path) -> None:
        found = sam(photos, stream=True, **DISCS)
        assert [len(results) for results in found] == [16, 16, 16]

    def test_the_rle_is_kept(self, sam: SAM) -> None:
        (results,) = sam(picture(), **DISCS)
        assert results.masks is not None
        assert [decode_rle(rle).tolist() for rle in results.to_rle()] == results.masks.data.tolist()
        assert len(results[[3, 5]].to_rle()) == 2


class TestConf:
    def test_what_is_left_keeps_its_prompt(self, sam: SAM, monkeypatch: pytest.MonkeyPatch) -> None:
        rescored(monkeypatch, [0.9, 0.2, 0.25, 0.7])
        boxes = [[0, 0, 16, 16], [32, 32, 64, 64], [64, 64, 96, 96], [128, 128, 160, 160]]
        (results,) = sam(picture(), bboxes=boxes)
        assert results.prompt_index.tolist() == [0, 3]  # 0.25 is not above 0.25
        assert results.dropped == (1, 2)
        assert results.boxes is not None
        assert results.boxes.cls.tolist() == [0, 3]
        assert results.boxes.xyxy.tolist() == [[0, 0, 15, 15], [128, 128, 159, 159]]
        assert [results.names[int(i)] for i in results.boxes.cls] == ["0", "3"]

    def test_none_keeps_all(self, sam: SAM, monkeypatch: pytest.MonkeyPatch) -> None:
        rescored(monkeypatch, [-0.1, 0.0])
        (results,) = sam(picture(), bboxes=[[0, 0, 16, 16], [32, 32, 64, 64]], conf=None)
        assert results.prompt_index.tolist() == [0, 1]
        assert results.dropped == ()

    def test_nothing_left(self, sam: SAM) -> None:
        (results,) = sam(picture(), points=[[100, 50], [20, 30]], conf=0.95)
        assert results.masks is None
        assert len(results) == 0
        assert results.dropped == (0, 1)
        assert results.plot().shape == (SIDE, SIDE, 3)

    def test_a_prompt_is_dropped_when_none_of_its_three_masks_is_left(
        self, sam: SAM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rescored(monkeypatch, [0.1, 0.6, 0.2, 0.1, 0.1, 0.1])
        (results,) = sam(picture(), points=[[100, 50], [20, 30]], multimask_output=True)
        assert results.prompt_index.tolist() == [0]
        assert results.dropped == (1,)


class TestSources:
    def test_single_images_of_every_kind(self, sam: SAM, photos: Path) -> None:
        path = photos / "frame2.png"
        bgr = picture(seed=2)
        for source, where in (
            (path, str(path)),
            (str(path), str(path)),
            (bgr, "image0.jpg"),
            (Image.fromarray(np.ascontiguousarray(bgr[..., ::-1])), "image0.jpg"),
        ):
            (results,) = sam(source, points=[10, 10])
            assert results.path == where
            np.testing.assert_array_equal(results.orig_img, bgr)

    @pytest.mark.parametrize("pattern", ["", "*.png", "frame*"])
    def test_folders_and_patterns_in_natural_order(self, sam: SAM, photos: Path, pattern: str) -> None:
        found = sam(photos / pattern if pattern else photos, points=[10, 10])
        assert [Path(results.path or "").name for results in found] == ["frame1.png", "frame2.png", "frame10.png"]

    def test_lists_of_anything(self, sam: SAM, photos: Path) -> None:
        found = sam([photos, picture(), photos / "frame1.png"], points=[10, 10])
        names = [results.path and Path(results.path).name for results in found]
        assert names == ["frame1.png", "frame2.png", "frame10.png", "image3.jpg", "frame1.png"]

    def test_a_stream_works_when_it_is_read(self, sam: SAM, opened: list[dict[str, Any]]) -> None:
        stream = sam([picture(), "no such file.png"], points=[10, 10], stream=True)
        assert isinstance(stream, Iterator)
        assert opened == []
        assert isinstance(next(stream), Results)
        assert len(opened) == 1
        with pytest.raises(ImageError, match=r"no such file\.png: image not found"):
            next(stream)

    @pytest.mark.parametrize("stream", [False, True])
    def test_the_next_image_is_encoded_while_the_last_is_decoded(
        self, sam: SAM, monkeypatch: pytest.MonkeyPatch, stream: bool
    ) -> None:
        encoded = {at: threading.Event() for at in range(3)}
        prepare, predict = SamGraphs.encode, Predictor.predict
        counts = iter(range(9))

        def encode(self: SamGraphs, prepared: FloatArray) -> Any:
            values = prepare(self, prepared)
            encoded[next(counts)].set()
            return values

        def decode(self: Predictor, *args: Any, **named: Any) -> Prediction:
            if self.geometry.height < 3:  # heights are 1, 2 and 3: each decode but the last waits for the next encode
                assert encoded[self.geometry.height].wait(60)
            return predict(self, *args, **named)

        monkeypatch.setattr(SamGraphs, "encode", encode)
        monkeypatch.setattr(Predictor, "predict", decode)
        found = sam([picture(height, 9) for height in (1, 2, 3)], points=[0, 0], stream=stream)
        assert [results.orig_shape for results in found] == [(1, 9), (2, 9), (3, 9)]

    def test_many_give_what_each_gives(self, sam: SAM, photos: Path) -> None:
        for results in sam(photos, points=[[30, 40], [200, 100]], multimask_output=True, stream=True):
            (alone,) = sam(results.path or "", points=[[30, 40], [200, 100]], multimask_output=True)
            assert results.masks is not None
            assert alone.masks is not None
            np.testing.assert_array_equal(results.masks.data, alone.masks.data)
            np.testing.assert_array_equal(results.orig_img, alone.orig_img)
            assert results.path == alone.path

    def test_streams_inside_streams(self, sam: SAM, photos: Path) -> None:
        for outer in sam(photos, points=[30, 40], stream=True):
            inner = sam([outer.orig_img, photos / "frame1.png"], points=[30, 40], stream=True)
            assert [results.path and Path(results.path).name for results in inner] == ["image0.jpg", "frame1.png"]

    def test_an_error_names_its_image(self, sam: SAM, photos: Path) -> None:
        (photos / "frame3.png").write_text("no image")
        with pytest.raises(ImageError, match=r"image 2 \(.*frame3\.png\): the file is not an image"):
            sam(photos, points=[30, 40])
        with pytest.raises(PromptError, match=r"image 1, points: .*outside"):
            sam([picture(), picture(20, 20)], points=[100, 100])

    def test_a_stream_that_is_left_ends_its_thread(self, sam: SAM, photos: Path) -> None:
        for _ in sam(photos, points=[30, 40], stream=True):
            assert "samedge-stream" in [thread.name for thread in threading.enumerate()]
            break
        assert "samedge-stream" not in [thread.name for thread in threading.enumerate()]

    def test_no_images(self, sam: SAM, opened: list[dict[str, Any]]) -> None:
        assert sam([], points=[30, 40]) == []
        assert opened == []

    def test_an_image_that_is_missing_is_told_before_the_model_is_opened(
        self, sam: SAM, opened: list[dict[str, Any]]
    ) -> None:
        sources: list[Source] = ["no such file.png", ["no such file.png", picture()]]
        for source in sources:
            with pytest.raises(ImageError, match=r"no such file\.png: image not found"):
                sam(source, points=[30, 40])
        assert opened == []

    def test_speed_of_each_image(self, sam: SAM) -> None:
        (results,) = sam(picture(), points=[10, 10])
        assert set(results.speed) == {"preprocess", "inference", "postprocess"}
        assert all(milliseconds is not None and milliseconds >= 0 for milliseconds in results.speed.values())


class TestModels:
    def test_call_is_predict(self) -> None:
        assert SAM.__call__ is SAM.predict
        assert samedge.SAM is SAM

    def test_options_reach_the_bundle(self, tmp_path: Path, opened: list[dict[str, Any]]) -> None:
        sam = SAM(tmp_path, backend="onnxruntime", device="", threads=3, force=True)
        assert opened == []
        assert sam.predictor is sam.predictor
        assert opened == [
            {
                "bundle": tmp_path,
                "backend": "onnxruntime",
                "device": None,
                "threads": 3,
                "force": True,
                "value_range": None,
                "kind": "sam",
            }
        ]

    def test_closing_frees_and_the_next_call_opens_anew(self, sam: SAM, opened: list[dict[str, Any]]) -> None:
        sam(picture(), points=[10, 10])
        sam.close()
        sam.close()
        assert len(sam(picture(), points=[10, 10])[0]) == 1
        assert len(opened) == 2

    def test_a_real_bundle_gives_what_its_predictor_gives(self, tmp_path: Path) -> None:
        folder = write_small_bundle(tmp_path / "small-samedge")
        image = picture(60, 80)
        prompts: dict[str, Any] = {"points": [[[40, 30]], [[5, 6]]], "labels": [[1], [0]]}
        boxes = [[10, 10, 70, 50], [0, 0, 20, 20]]
        with samedge.load(folder) as predictor:
            predictor.set_image(image)
            want = predictor.predict(**prompts, boxes=boxes)
        for model in (folder, pack(folder, tmp_path / "small.samedge")):
            (have,) = SAM(model)(image, bboxes=boxes, **prompts, conf=None)
            assert have.masks is not None
            assert have.boxes is not None
            np.testing.assert_array_equal(have.masks.data, want.masks)
            np.testing.assert_array_equal(have.boxes.conf, want.scores)
            np.testing.assert_array_equal(have.boxes.xyxy, want.boxes)

    def test_a_checkpoint_is_exported_once_and_then_needs_no_torch(self, tmp_path: Path) -> None:
        image = tmp_path / "image.png"
        cv2.imwrite(str(image), picture(60, 80))
        (first,) = SAM(TINY)(image, bboxes=[10, 10, 70, 50], conf=None)
        script = f"""
import json, sys
for name in ("torch", "onnx", "onnxslim"):
    sys.modules[name] = None
from samedge import SAM
(results,) = SAM({TINY!r})({str(image)!r}, bboxes=[10, 10, 70, 50], conf=None)
print(json.dumps(results.to_rle()))
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == first.to_rle()

    def test_without_torch_a_new_checkpoint_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "samedge.export.sam_bundle", raising=False)
        monkeypatch.setitem(sys.modules, "samedge.models.sam.load", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'samedge\[export,cpu\]'"):
            _ = SAM(TINY).predictor

    @pytest.mark.parametrize("model", ["no_such_file.pt", "no/such/folder-samedge"])
    def test_what_is_not_there(self, model: str) -> None:
        with pytest.raises(StorageError, match=f"{model}: there is no such file"):
            SAM(model)(picture(), points=[1, 1])

    def test_what_is_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"not a bundle: it has no manifest\.json"):
            SAM(tmp_path)(picture(), points=[1, 1])

    def test_a_bundle_that_failed_is_used_by_force_only(self, tmp_path: Path) -> None:
        folder = write_small_bundle(tmp_path / "small-samedge", verdict="failed")
        with pytest.raises(ParityError):
            SAM(folder)(picture(), points=[1, 1])
        assert len(SAM(folder, force=True)(picture(), points=[1, 1], conf=None)[0]) == 1

    def test_a_device_that_cannot_be_had(self, tmp_path: Path) -> None:
        folder = write_small_bundle(tmp_path / "small-samedge")
        with pytest.raises(DeviceUnavailableError):
            SAM(folder, device="cuda")(picture(), points=[1, 1])


class TestInfo:
    def test_a_bundle_is_described_by_its_manifest_alone(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = write_any_bundle(tmp_path / "any", verdict="failed")
        (folder / "encoder.onnx").unlink()
        assert SAM(folder).info(verbose=False) == (1, 1, 0, 0.0)
        assert capsys.readouterr().out == ""
        assert SAM(folder).info() == (1, 1, 0, 0.0)
        assert capsys.readouterr().out == "sam_vit summary: 1 layers, 1 parameters, 0 gradients, 0.0 GFLOPs\n"
        SAM(folder).info(detailed=True)
        text = capsys.readouterr().out
        assert "licence: Apache-2.0" in text
        assert "small.pt" in text

    def test_a_checkpoint_is_described_by_its_weights(self, cache: Path) -> None:
        layers, parameters, gradients, gflops = SAM(TINY).info(verbose=False)
        assert layers > 50
        assert parameters > 1_000_000
        assert gradients == 0
        assert gflops > 0
        assert list(cache.iterdir()) == []

    def test_of_an_open_model(self, sam: SAM) -> None:
        _ = sam.predictor
        assert sam.record().name == "fake"


class TestExport:
    def test_returns_the_path_as_text(self, tmp_path: Path) -> None:
        path = SAM(TINY).export(format="onnx", output=tmp_path / "bundle", check=False)
        assert path == str(tmp_path / "bundle")
        assert len(SAM(path)(picture(), points=[1, 1], conf=None)[0]) == 1

    def test_of_a_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="the model is already a bundle"):
            SAM(write_any_bundle(tmp_path / "any")).export()


@pytest.fixture
def predictor(tmp_path: Path, opened: list[dict[str, Any]]) -> SAMPredictor:
    return SAMPredictor(overrides={"model": str(tmp_path), "conf": 0.25, "task": "segment", "mode": "predict"})


class TestPredictor:
    def test_an_image_is_encoded_once_for_many_calls(
        self, predictor: SAMPredictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = []
        encode = Predictor.set_image

        def counted(self: Predictor, image: ImageArray) -> None:
            images.append(image)
            encode(self, image)

        monkeypatch.setattr(Predictor, "set_image", counted)
        predictor.set_image(picture())
        (by_box,) = predictor(bboxes=[16, 16, 48, 64])
        (by_points,) = predictor(points=[[100, 50], [20, 30]], labels=[1, 1])
        (three,) = predictor(points=[100, 50], multimask_output=True)
        assert [len(by_box), len(by_points), len(three)] == [1, 2, 3]
        assert by_box.boxes is not None
        assert by_box.boxes.xyxy.tolist() == [[16, 16, 47, 63]]
        assert len(images) == 1

    def test_a_mask_prompt_refines(self, predictor: SAMPredictor) -> None:
        predictor.set_image(picture())
        drawn = np.zeros((SIDE, SIDE), np.bool_)
        drawn[64:128, 32:96] = True
        (results,) = predictor(masks=drawn)
        assert results.boxes is not None
        # Drawn at a quarter of the resolution and back.
        assert results.boxes.xyxy[0].tolist() == pytest.approx([32, 64, 95, 127], abs=4)

    def test_without_an_image(self, predictor: SAMPredictor) -> None:
        with pytest.raises(UsageError, match="no image is set"):
            predictor(bboxes=[16, 16, 48, 64])
        predictor.set_image(picture())
        predictor.reset_image()
        with pytest.raises(UsageError, match="no image is set"):
            predictor(bboxes=[16, 16, 48, 64])
        with pytest.raises(UsageError, match="no image is set"):
            _ = predictor.features

    def test_an_image_that_fails_leaves_none(self, predictor: SAMPredictor) -> None:
        predictor.set_image(picture())
        with pytest.raises(ImageError):
            predictor.set_image("no such file.png")
        with pytest.raises(UsageError, match="no image is set"):
            predictor(bboxes=[16, 16, 48, 64])

    def test_prompts_that_were_set_are_used_where_none_are_given(self, predictor: SAMPredictor) -> None:
        predictor.set_image(picture())
        predictor.set_prompts({"bboxes": np.array([[16, 16, 48, 64], [0, 0, 32, 32]])})
        assert len(predictor()[0]) == 2
        assert len(predictor(points=np.array([10, 10]))[0]) == 1
        with pytest.raises(UsageError, match=r"unknown prompt 'boxes'. Choose one of: bboxes, points, labels, masks"):
            predictor.set_prompts({"boxes": [1, 2, 3, 4]})

    def test_everything_in_the_image_that_is_set(self, predictor: SAMPredictor) -> None:
        predictor.set_image(picture())
        assert len(predictor()[0]) == 0
        assert len(predictor(**DISCS)[0]) == 16
        assert predictor(crop_n_layers=1, **DISCS)[0].path == "image0.jpg"
        predictor.set_prompts({"points": [10, 10]})
        assert len(predictor()[0]) == 1
        assert len(predictor(**DISCS)[0]) == 16
        with pytest.raises(
            UsageError, match="points_stride is an option of segment everything, but prompts were given"
        ):
            predictor(points=[1, 1], points_stride=4)

    def test_a_source_in_place_of_set_image(self, predictor: SAMPredictor, photos: Path) -> None:
        found = predictor(source=photos, points=[10, 10])
        assert [Path(results.path or "").name for results in found] == ["frame1.png", "frame2.png", "frame10.png"]
        assert predictor(points=[10, 10])[0].path == str(photos / "frame10.png")

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"modle": "x.pt"}, "unknown override 'modle'. Choose one of: model, conf"),
            ({"conf": "high"}, "invalid conf 'high'"),
            ({"threads": "four"}, "invalid threads 'four'"),
        ],
    )
    def test_wrong_overrides(self, overrides: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            SAMPredictor(overrides=overrides)

    @pytest.mark.parametrize("size", [SIDE, (SIDE, SIDE), [SIDE, SIDE], None])
    def test_the_model_s_own_size_may_be_said(self, tmp_path: Path, opened: list[dict[str, Any]], size: object) -> None:
        predictor = SAMPredictor(overrides={"model": str(tmp_path), "imgsz": size})
        predictor.set_image(picture())
        assert len(predictor(points=[1, 1])) == 1

    def test_another_size_is_refused(self, tmp_path: Path, opened: list[dict[str, Any]]) -> None:
        with pytest.raises(UsageError, match=f"imgsz is 640, but the model's input is {SIDE}"):
            SAMPredictor(overrides={"model": str(tmp_path), "imgsz": 640}).set_image(picture())

    def test_conf_drops(self, tmp_path: Path, opened: list[dict[str, Any]]) -> None:
        predictor = SAMPredictor(overrides={"model": str(tmp_path), "conf": 0.95})
        predictor.set_image(picture())
        assert predictor(points=[1, 1])[0].dropped == (0,)
        predictor.conf = None
        assert predictor(points=[1, 1])[0].dropped == ()

    def test_features_from_before(self, predictor: SAMPredictor) -> None:
        predictor.set_image(picture(SIDE, 2 * SIDE))
        features = predictor.features.copy()
        predictor.reset_image()
        masks, boxes = predictor.inference_features(
            features, (SIDE, 2 * SIDE), bboxes=[[64, 32, 256, 128], [16, 16, 48, 64]]
        )
        assert masks.shape == (2, SIDE, 2 * SIDE)
        assert masks.dtype == np.bool_
        assert boxes.tolist() == [pytest.approx([64, 32, 255, 127, 0.9, 0]), pytest.approx([16, 16, 47, 63, 0.9, 1])]
        masks, boxes = predictor.inference_features(
            features, (SIDE, 2 * SIDE), dst_shape=(2 * SIDE, 4 * SIDE), bboxes=[64, 32, 256, 128]
        )
        assert masks.shape == (1, 2 * SIDE, 4 * SIDE)
        assert boxes[0, :4].tolist() == [128, 64, 511, 255]
        with pytest.raises(UsageError, match="no image is set"):  # its pixels are not known
            predictor(points=[1, 1])

    def test_features_of_another_model(self, predictor: SAMPredictor) -> None:
        with pytest.raises(ImageError, match="embedding"):
            predictor.inference_features(np.zeros((1, 2, 3, 4), np.float32), (8, 8), points=[1, 1])


class TestVideos:
    def test_what_a_call_writes(self, sam: SAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        clip = write_video(tmp_path / "clip.mp4", frames=6)
        found = sam(
            [clip, picture()], points=[10, 10], vid_stride=2, save=True, save_frames=True, save_txt=True, stream=True
        )
        assert [(results.path, results.frame, results.frame_rate) for results in found] == [
            *((str(clip), number, 5.0) for number in (2, 4, 6)),
            ("image3.jpg", None, None),
        ]
        folder = tmp_path / "runs" / "segment" / "predict"
        assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
            "clip.mp4",
            "clip_frames/clip_2.jpg",
            "clip_frames/clip_4.jpg",
            "clip_frames/clip_6.jpg",
            "image3.jpg",
            "labels/clip_2.txt",
            "labels/clip_4.txt",
            "labels/clip_6.txt",
            "labels/image3.txt",
        ]
        assert len(list(iter_sources(folder / "clip.mp4"))) == 3

    def test_streams_number_their_frames(self, sam: SAM, tmp_path: Path) -> None:
        clip = write_video(tmp_path / "clip.mp4", frames=4)
        with sam.predictor.stream(clip, {"points": [10, 10]}) as items:
            assert [(item.index, item.path, item.frame) for item in items] == [
                (number, str(clip), number + 1) for number in range(4)
            ]
