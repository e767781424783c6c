"""The keywords of Ultralytics' calls on `SAM`, `FastSAM`, `YOLO` and `SAMPredictor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from samedge.api import sam as api
from samedge.api.keywords import KEYWORDS, class_numbers, device_name, keywords_in_use
from samedge.api.sam import SAM
from samedge.api.sam_predictor import SAMPredictor
from samedge.api.yolo import FastSAM
from samedge.errors import UsageError
from samedge.runtime.predictor import Predictor
from samedge.testing.predictor import fake_predictor

DOCS = Path(__file__).parents[2] / "docs" / "drop_in.md"
SIDE = 256
NEUTRAL: dict[str, Any] = {
    "verbose": False,
    "half": False,
    "augment": False,
    "visualize": False,
    "embed": None,
    "task": "segment",
    "mode": "predict",
    "batch": 1,
    "vid_stride": 1,
    "stream_buffer": False,
    "retina_masks": True,
    "max_det": 300,
    "classes": None,
    "iou": 0.7,
    "imgsz": SIDE,
    "device": "cpu",
    "save": False,
    "show": False,
}


@pytest.fixture
def sam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SAM:
    """A SAM that draws its prompts, in a current folder of its own."""

    def load(_bundle: Path, **_options: Any) -> Predictor:
        return fake_predictor(image_size=SIDE)

    monkeypatch.setattr(api, "load", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "bus.png"), np.full((64, 64, 3), 90, np.uint8))
    return SAM(tmp_path / "model")


def test_neutral_ones_change_nothing(sam: SAM) -> None:
    (plain,) = sam("a/bus.png", points=[20, 20], labels=[1])
    (found,) = sam("a/bus.png", points=[20, 20], labels=[1], **NEUTRAL)
    assert plain.masks is not None
    assert found.masks is not None
    np.testing.assert_array_equal(found.masks.data, plain.masks.data)
    assert found.save_dir is None
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"augment": True}, "augment: test-time augmentation is not supported. Leave it out"),
        ({"visualize": True}, "visualize: drawing of features is not supported"),
        ({"embed": [1]}, "embed: embeddings of layers are not returned"),
        ({"mode": "train"}, "mode: a call cannot run mode 'train'. Give predict, exact, fast"),
        ({"task": "pose"}, "the requested task is pose, but the model's task is segment. Leave it out"),
        ({"imgsz": 640}, "imgsz is 640, but the model's input is 256. Leave it out, or give 256"),
        ({"device": [0, 1]}, r"device: one call runs on one device, not on \[0, 1\]. Give one of them"),
    ],
)
def test_what_would_change_the_result_is_refused(sam: SAM, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sam("a/bus.png", points=[20, 20], **keywords)
    with pytest.raises(UsageError, match=message):
        SAMPredictor(overrides={"model": str(sam.model), **keywords})("a/bus.png", points=[20, 20])


def test_everything_is_written_where_it_is_sought(sam: SAM) -> None:
    found = sam(["a/bus.png", "b/bus.png"], points=[20, 20], save=True, save_txt=True, save_crop=True)
    first = Path("runs/segment/predict").resolve()
    assert [results.save_dir for results in found] == [str(first)] * 2
    assert {path.name for path in first.iterdir()} == {"bus.jpg", "bus-2.jpg", "labels", "crops"}
    assert (first / "labels" / "bus.txt").read_text().startswith("0 ")
    assert list((first / "crops" / "0").glob("bus*.jpg"))
    sam("a/bus.png", points=[20, 20], save=True, save_txt=True)  # the model's own folder again
    assert len((first / "labels" / "bus.txt").read_text().splitlines()) == 1
    (other,) = SAM(sam.model)(np.zeros((64, 64, 3), np.uint8), points=[20, 20], save=True)
    assert other.save_dir == str(first.with_name("predict-2"))
    assert (first.with_name("predict-2") / "image0.jpg").is_file()


def test_project_and_name(sam: SAM, tmp_path: Path) -> None:
    (one,) = sam("a/bus.png", points=[20, 20], save=True, project="mine", name="first")
    assert one.save_dir == str(Path("runs/segment/mine/first").resolve())
    (two,) = SAM(sam.model)("a/bus.png", points=[20, 20], save=True, project="mine", name="first", exist_ok=True)
    assert two.save_dir == one.save_dir
    (three,) = sam("a/bus.png", points=[20, 20], save_txt=True, save_conf=True, project=str(tmp_path / "out"))
    assert three.save_dir == str(tmp_path / "out" / "predict")
    assert float((tmp_path / "out/predict/labels/bus.txt").read_text().split()[-1]) == pytest.approx(0.9, abs=0.1)


def test_a_predictor_writes_by_its_overrides(sam: SAM) -> None:
    predictor = SAMPredictor(overrides={"model": str(sam.model), "task": "segment", "mode": "predict", "save": True})
    predictor.set_image("a/bus.png")
    (found,) = predictor(points=[20, 20])
    assert found.save_dir is not None
    assert (Path(found.save_dir) / "bus.jpg").is_file()
    assert predictor.overrides["save"] is True


def test_attributes(sam: SAM) -> None:
    assert (sam.task, sam.device, dict(sam.names)) == ("segment", "cpu", {})
    assert sam.overrides == {"model": str(sam.model), "task": "segment"}
    assert sam.fuse() is sam
    assert sam.to("cpu") is sam
    sam.overrides["conf"] = 0.999
    assert len(sam("a/bus.png", points=[20, 20])[0]) == 0
    assert len(sam("a/bus.png", points=[20, 20], conf=0.25)[0]) == 1


def test_devices_and_classes() -> None:
    names = [device_name(device) for device in (None, "", "cpu", 0, "1", [2], "cuda:3", "0")]
    assert names == [None, None, "cpu", "cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0"]
    assert (class_numbers(2), class_numbers([0, 1]), class_numbers(None)) == ([2], [0, 1], None)
    with pytest.raises(UsageError, match=r"mode: a call cannot run mode 'exact'. Give predict"):
        keywords_in_use({"mode": "exact"}, "yolo", "")


def test_text_prompts_are_refused() -> None:
    with pytest.raises(UsageError, match=r"texts: text prompts need CLIP, which samedge does not run. Give bboxes"):
        FastSAM("none.onnx")("a.jpg", texts="a dog")


def test_the_table_is_that_of_the_docs() -> None:
    rows = [line.split("|")[1:-1] for line in DOCS.read_text().splitlines() if line.count("|") == 5 and "`" in line]
    told = {name.strip().strip("`"): tuple(cell.strip() for cell in cells) for name, *cells in rows}
    assert told == {name: (row.sam, row.yolo, row.meaning) for name, row in KEYWORDS.items()}
