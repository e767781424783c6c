"""`samedge.YOLO` and `samedge.FastSAM`, and the export behind them, on small seeded models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.yolo_models import DETECTOR, SMALL

import samedge
from samedge.api.cached import cached_bundle
from samedge.api.yolo import YOLO, FastSAM
from samedge.engines.onnx_header import read_onnx_metadata
from samedge.engines.registry import open_engine
from samedge.errors import BundleError, CheckpointError, EngineError, ParityError, StorageError, UsageError
from samedge.export.yolo.export import export_yolo
from samedge.export.yolo.graphs import plan_yolo
from samedge.export.yolo.parity import check_yolo
from samedge.models.yolo.seeded import seeded_yolo
from samedge.models.yolo.yolo import YoloConfig
from samedge.runtime.image.read import read_image
from samedge.runtime.yolo.graph import PARITY

COFFEE = Path(samedge.__file__).parent / "assets" / "coffee.jpg"
CONF = 0.05


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict, without anything that Ultralytics would add."""
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.save(seeded_yolo(SMALL).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    return export_yolo(checkpoint, checkpoint.with_name("small.onnx"), image_size=128)


class TestExport:
    @pytest.mark.parametrize("dynamic", [True, False])
    @pytest.mark.parametrize("config", [SMALL, DETECTOR], ids=["segmenter", "detector"])
    def test_the_graph_is_the_model(self, tmp_path: Path, config: YoloConfig, dynamic: bool) -> None:
        torch.save(seeded_yolo(config).state_dict(), tmp_path / "a.pt")
        path = export_yolo(tmp_path / "a.pt", tmp_path / "a.onnx", image_size=(64, 96), dynamic=dynamic)
        with open_engine(path) as engine:
            sides = ("height", "width") if dynamic else (64, 96)
            assert engine.inputs["images"].shape == ("batch", 3, *sides)
            for size in [(64, 96), (96, 32)] if dynamic else [(64, 96)]:
                images = np.random.default_rng(0).random((2, 3, *size), np.float32)
                found = engine.run({"images": images})
                wanted = seeded_yolo(config)(torch.from_numpy(images))
                for ours, theirs in zip(found.values(), wanted, strict=True):
                    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-3, atol=2e-3)
            assert list(found) == (["output0", "output1"] if config.segments else ["output0"])

    def test_what_the_file_says(self, exported: Path) -> None:
        told = read_onnx_metadata(exported)
        assert told["names"] == "{0: '0', 1: '1', 2: '2'}"
        assert (told["task"], told["imgsz"], told["stride"]) == ("segment", "[128, 128]", "32")
        assert json.loads(told[PARITY])["verdict"] == "passed"
        assert json.loads(told[PARITY])["mask_iou_min"] > 0.99
        assert len(told["checkpoint_sha256"]) == 64
        onnx.checker.check_model(str(exported), full_check=True)

    def test_no_check(self, tmp_path: Path, checkpoint: Path) -> None:
        path = export_yolo(checkpoint, tmp_path / "a.onnx", image_size=64, check=False)
        assert json.loads(read_onnx_metadata(path)[PARITY])["verdict"] == "unchecked"

    def test_another_model_fails_the_check(self, exported: Path) -> None:
        with open_engine(exported) as engine:
            other = check_yolo(seeded_yolo(SMALL, seed=1), engine, (128, 128), rect=True)
        assert other.verdict == "failed"
        assert other.box_error_max > 0.5
        assert other.mask_iou_min < 0.9

    @pytest.mark.parametrize(
        "options", [{"opset": 11}, {"opset": 40}, {"image_size": 100}, {"image_size": 0}, {"image_size": (64, 65)}]
    )
    def test_options_that_mean_nothing(self, tmp_path: Path, checkpoint: Path, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError):
            export_yolo(checkpoint, tmp_path / "a.onnx", **options)
        assert not (tmp_path / "a.onnx").exists()

    def test_the_plan_tells_free_sizes_apart(self) -> None:
        height, width = plan_yolo(seeded_yolo(SMALL), (64, 64), dynamic=True).example[0].shape[2:]
        assert height != width

    def test_the_cache_exports_once(self, checkpoint: Path, cache: Path) -> None:
        path = cached_bundle(checkpoint)
        assert path.is_relative_to(cache)
        written = path.stat().st_mtime_ns
        assert cached_bundle(checkpoint) == path
        assert path.stat().st_mtime_ns == written
        assert [file.name for file in path.parent.iterdir()] == [path.name]


class TestYolo:
    def test_a_checkpoint_and_its_export_find_the_same(self, checkpoint: Path, exported: Path) -> None:
        image = read_image(COFFEE)
        (first,) = YOLO(checkpoint)(image, imgsz=128, conf=CONF)
        (second,) = YOLO(exported)(image, conf=CONF)
        assert len(first) > 0
        assert first.boxes is not None
        assert second.boxes is not None
        np.testing.assert_allclose(first.boxes.data, second.boxes.data, atol=1e-4)
        assert first.masks is not None
        assert first.masks.shape == (len(first), *image.shape[:2])

    def test_sources_and_streams(self, exported: Path) -> None:
        model = YOLO(exported)
        both = model([COFFEE, read_image(COFFEE)[:100]], conf=CONF)
        assert [results.path for results in both] == [str(COFFEE), "image1.jpg"]
        stream = model.predict(COFFEE, conf=CONF, stream=True)
        assert next(stream).orig_shape == both[0].orig_shape
        with pytest.raises(StopIteration):
            next(stream)

    def test_names_and_task(self, exported: Path) -> None:
        model = YOLO(exported, task="segment")
        assert model.names == {0: "0", 1: "1", 2: "2"}
        assert model.task == "segment"
        with pytest.raises(UsageError, match="model's task is segment"):
            _ = YOLO(exported, task="detect").task
        with pytest.raises(UsageError, match="unknown task 'pose'"):
            YOLO(exported, task="pose")  # type: ignore[arg-type]

    def test_closing(self, exported: Path) -> None:
        model = YOLO(exported)
        predictor = model.predictor
        model.close()
        assert predictor.engine.closed
        assert len(model(COFFEE, conf=CONF)) == 1

    def test_export_from_a_model(self, tmp_path: Path, checkpoint: Path, exported: Path) -> None:
        path = YOLO(checkpoint).export(output=tmp_path / "a.onnx", imgsz=64, check=False)
        assert YOLO(path).predictor.graph.fixed_size
        with pytest.raises(UsageError, match="already a graph"):
            YOLO(exported).export()
        with pytest.raises(UsageError, match="unknown format"):
            YOLO(checkpoint).export("coreml")  # type: ignore[arg-type]

    def test_a_graph_that_failed_is_refused(self, tmp_path: Path, exported: Path) -> None:
        model = onnx.load(str(exported))
        told = read_onnx_metadata(exported) | {PARITY: '{"verdict": "failed", "box_error_max": 9.5}'}
        onnx.helper.set_model_props(model, told)
        onnx.save(model, str(tmp_path / "bad.onnx"))
        with pytest.raises(ParityError, match="does not reproduce") as caught:
            YOLO(tmp_path / "bad.onnx")(COFFEE)
        assert caught.value.box_error_max == 9.5
        assert len(YOLO(tmp_path / "bad.onnx", force=True)(COFFEE)) == 1

    def test_what_is_no_yolo(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError):
            YOLO(tmp_path / "none.pt")(COFFEE)
        with pytest.raises(BundleError):
            YOLO(tmp_path)(COFFEE)
        torch.save({"image_encoder.neck.0.weight": torch.zeros(1)}, tmp_path / "sam.pt")
        with pytest.raises(CheckpointError, match="unknown model"):
            YOLO(tmp_path / "sam.pt")(COFFEE)
        (tmp_path / "a.onnx").write_bytes(b"no graph")
        with pytest.raises(EngineError):
            YOLO(tmp_path / "a.onnx")(COFFEE)


class TestFastSam:
    def test_prompts_choose_among_everything(self, exported: Path) -> None:
        model = FastSAM(exported)
        (everything,) = model(COFFEE, conf=CONF)
        (point,) = model(COFFEE, points=[300, 200], labels=[1], conf=CONF)
        (box,) = model(COFFEE, bboxes=[[100, 50, 400, 300]], conf=CONF)
        assert len(everything) > len(point) > 0
        assert len(box) == 1
        assert point.masks is not None
        assert point.masks.data[:, 200, 300].all()

    def test_a_detector_has_no_masks(self, tmp_path: Path) -> None:
        torch.save(seeded_yolo(DETECTOR).state_dict(), tmp_path / "a.pt")
        export_yolo(tmp_path / "a.pt", tmp_path / "a.onnx", image_size=64, check=False)
        with pytest.raises(UsageError, match="model's task is detect"):
            FastSAM(tmp_path / "a.onnx")(COFFEE)

    def test_streams(self, exported: Path) -> None:
        assert len(list(FastSAM(exported).predict([COFFEE, COFFEE], conf=CONF, stream=True))) == 2
