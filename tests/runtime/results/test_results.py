"""Results: golden values, files, slicing that keeps prompts, nothing left, errors of one line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

import samedge
from samedge.errors import MissingExtraError, SamedgeError, StorageError, UsageError
from samedge.runtime.masks.rle import decode_rle
from samedge.runtime.results.prediction import Prediction
from samedge.runtime.results.results import Boxes, Masks, Results
from samedge.testing.predictor import fake_predictor
from samedge.types import BoolArray, ImageArray

HEIGHT, WIDTH = 100, 200
SPEED = {"preprocess": 1.0, "inference": 2.0, "postprocess": 3.0}


def image() -> ImageArray:
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def masks() -> BoolArray:
    """A rectangle, two rectangles far apart, and one pixel."""
    drawn = np.zeros((3, HEIGHT, WIDTH), np.bool_)
    drawn[0, 10:31, 20:61] = True
    drawn[1, 50:61, 100:121] = True
    drawn[1, 80:91, 150:191] = True
    drawn[2, 5, 7] = True
    return drawn


BOXES = np.array([[20, 10, 60, 30, 0.95, 0], [100, 50, 190, 90, 0.5, 2], [7, 5, 7, 5, 0.25, 3]], np.float32)


def results(**changes: Any) -> Results:
    given: dict[str, Any] = {
        "path": "some/photo.jpg",
        "boxes": BOXES,
        "masks": masks(),
        "speed": SPEED,
        "prompt_index": [0, 2, 3],
        "dropped": (1,),
    }
    return Results(image(), **{**given, **changes})


def nothing() -> Results:
    return Results(image(), "some/photo.jpg", boxes=np.zeros((0, 6)), masks=np.zeros((0, HEIGHT, WIDTH), np.bool_))


def predicted() -> tuple[Prediction, ImageArray]:
    predictor, picture = fake_predictor(), image()
    predictor.set_image(picture)
    return predictor.predict(boxes=[[20, 10, 100, 60], [120, 20, 190, 90]]), picture


def one_line(error: BaseException) -> bool:
    return isinstance(error, SamedgeError) and "\n" not in str(error)


def test_public_names() -> None:
    assert samedge.Results is Results
    assert samedge.Boxes is Boxes
    assert samedge.Masks is Masks


def test_attributes() -> None:
    found = results()
    assert found.orig_shape == (HEIGHT, WIDTH)
    assert found.names == {0: "0", 1: "1", 2: "2", 3: "3"}
    assert found.path == "some/photo.jpg"
    assert found.save_dir is None
    assert found.speed == SPEED
    assert found.dropped == (1,)
    assert found.prompt_index.tolist() == [0, 2, 3]
    assert len(found) == 3
    assert Results(image()).speed == dict.fromkeys(SPEED)


def test_boxes() -> None:
    boxes = results().boxes
    assert boxes is not None
    assert boxes.shape == (3, 6)
    assert boxes.data.dtype == np.float32
    assert boxes.xyxy[0].tolist() == [20, 10, 60, 30]
    assert boxes.xywh[0].tolist() == [40, 20, 40, 20]
    np.testing.assert_allclose(boxes.xyxyn[0], [0.1, 0.1, 0.3, 0.3])
    np.testing.assert_allclose(boxes.xywhn[0], [0.2, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(boxes.conf, [0.95, 0.5, 0.25])
    assert boxes.cls.tolist() == [0, 2, 3]
    assert boxes.id is None
    assert boxes.is_track is False
    assert boxes[1].cls.tolist() == [2]
    assert boxes[boxes.conf > 0.4].cls.tolist() == [0, 2]
    assert Boxes(BOXES[0], (HEIGHT, WIDTH)).shape == (1, 6)
    assert Boxes(np.zeros(0), (HEIGHT, WIDTH)).shape == (0, 6)


def test_masks() -> None:
    found = results().masks
    assert found is not None
    assert found.shape == found.data.shape == (3, HEIGHT, WIDTH)
    assert found.data.dtype == np.bool_
    assert {tuple(point) for point in found.xy[0].tolist()} == {(20, 10), (60, 10), (60, 30), (20, 30)}
    np.testing.assert_allclose(found.xyn[0] * [WIDTH, HEIGHT], found.xy[0], rtol=1e-6)
    assert [len(polygon) for polygon in found.xy] == [4, 10, 1]  # two rectangles and the bridge, forth and back
    assert [len(parts) for parts in found.polygons("all")] == [1, 2, 1]
    assert len(found[1:]) == 2
    assert found[[False, False, True]].data.sum() == 1
    assert Masks(masks()[0]).shape == (1, HEIGHT, WIDTH)
    empty = Masks(np.zeros((1, 4, 5), np.bool_))
    assert [polygon.shape for polygon in empty.xy] == [(0, 2)]


@pytest.mark.parametrize(
    ("selection", "prompts"),
    [
        (0, [0]),
        (-1, [3]),
        (np.int64(1), [2]),
        (slice(1, None), [2, 3]),
        (slice(None, None, -1), [3, 2, 0]),
        ([2, 0], [3, 0]),
        ([True, False, True], [0, 3]),
        (np.array([False, True, False]), [2]),
        ([], []),
        (np.zeros(3, np.bool_), []),
    ],
)
def test_selections_keep_boxes_masks_and_prompts_together(selection: Any, prompts: list[int]) -> None:
    found = results()
    chosen = found[selection]
    assert chosen.prompt_index.tolist() == prompts
    assert len(chosen) == len(prompts)
    assert chosen.boxes is not None
    assert chosen.boxes.cls.tolist() == prompts
    assert (chosen.masks is None) == (not prompts)
    if chosen.masks is not None:
        rows = [[0, 2, 3].index(prompt) for prompt in prompts]
        np.testing.assert_array_equal(chosen.masks.data, masks()[rows])
    assert (chosen.dropped, chosen.names, chosen.path, chosen.speed) == ((1,), found.names, found.path, SPEED)


def test_iteration_ends_and_indices_are_checked() -> None:
    found = results()
    assert [int(one.prompt_index[0]) for one in found] == [0, 2, 3]
    assert found.boxes is not None
    assert found.masks is not None
    assert [len(box) for box in found.boxes] == [len(mask) for mask in found.masks] == [1, 1, 1]
    with pytest.raises(IndexError):
        results()[3]
    with pytest.raises(IndexError):
        results()[[True, False]]


def test_from_prediction() -> None:
    prediction, picture = predicted()
    found = Results.from_prediction(prediction, picture, path="a.png", dropped=[5])
    assert found.boxes is not None
    assert found.masks is not None
    np.testing.assert_array_equal(found.boxes.xyxy, prediction.boxes)
    np.testing.assert_array_equal(found.boxes.conf, prediction.scores)
    assert found.boxes.cls.tolist() == [0, 1]
    assert found.dropped == (5,)
    assert found.names[5] == "5"
    assert found.speed == dict(prediction.speed)
    for mask, drawn in zip(found.masks.iter_masks(), prediction.iter_masks(), strict=True):
        np.testing.assert_array_equal(mask, drawn)
    assert "masks" not in prediction.__dict__  # not drawn all at once
    second = found[1]
    assert second.masks is not None
    np.testing.assert_array_equal(second.masks.data[0], found.masks.data[1])
    assert Results.from_prediction(prediction, picture, speed=SPEED).speed == SPEED


def test_a_prediction_with_several_masks_a_prompt_keeps_their_prompt() -> None:
    predictor, picture = fake_predictor(), image()
    predictor.set_image(picture)
    found = Results.from_prediction(predictor.predict(points=[[50, 50], [150, 50]], multimask=True), picture)
    assert found.prompt_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert found[1::2].prompt_index.tolist() == [0, 1, 1]


def test_an_empty_prediction() -> None:
    prediction, picture = predicted()
    found = Results.from_prediction(prediction[:0], picture, dropped=(0, 1))
    assert len(found) == 0
    assert found.masks is None
    assert found.boxes is not None
    assert found.boxes.shape == (0, 6)
    assert found.dropped == (0, 1)


def test_nothing_left(tmp_path: Path) -> None:
    for empty in (nothing(), Results(image()), results()[[]]):
        assert len(empty) == 0
        assert empty.masks is None
        assert empty.verbose() == ""
        assert empty.summary() == empty.to_coco() == empty.to_rle() == []
        assert json.loads(empty.to_json()) == []
        assert empty.to_csv() == "name,class,confidence,box\n"
        np.testing.assert_array_equal(empty.plot(), empty.orig_img)
        empty.save_txt(tmp_path / "labels.txt")
        assert empty.save_crop(tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_moves_return_the_same() -> None:
    found = results()
    for one in (found, found.boxes, found.masks):
        assert one is not None
        assert one.cpu() is one.numpy() is one.cuda() is one.to("cuda:0") is one


def test_new_and_update() -> None:
    found = results()
    empty = found.new()
    assert len(empty) == 0
    assert empty[:].boxes is None
    assert empty.orig_img is found.orig_img
    moved = BOXES + np.array([1, 1, 1, 1, 0, 0], np.float32)
    found.update(boxes=moved)
    assert found.boxes is not None
    np.testing.assert_array_equal(found.boxes.data, moved)
    assert found.prompt_index.tolist() == [0, 2, 3]
    found.update(boxes=BOXES[:1], masks=masks()[:1])
    assert found.prompt_index.tolist() == [0]
    empty.update(masks=masks(), prompt_index=[4, 5, 6])
    tight = empty[:].boxes
    assert tight is not None
    np.testing.assert_array_equal(tight.data[:, :4], BOXES[:, :4])  # tight boxes
    assert empty.prompt_index.tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"boxes": BOXES[:2]}, "2 boxes, 3 masks"),
        ({"prompt_index": [1]}, "1 prompt indices"),
        ({"masks": masks()[:, :50]}, "masks are 200 x 50 px, but the image is 200 x 100 px"),
        ({"masks": masks().astype(np.uint8)}, "dtype uint8"),
        ({"boxes": BOXES[:, :5]}, "(3, 5)"),
    ],
)
def test_objects_that_do_not_fit(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        results(**change)
    assert says in str(caught.value)
    assert one_line(caught.value)


def test_verbose_and_names() -> None:
    assert results().verbose() == "1 0, 1 2, 1 3"
    assert results(names={0: "cup", 2: "spoon"}).verbose() == "1 cup, 1 spoon, 1 3"


def test_plot() -> None:
    found = results()
    before = found.orig_img.copy()
    picture = found.plot()
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(found.orig_img, before)
    np.testing.assert_array_equal(found.plot(labels=False, boxes=False, masks=False), before)
    only_masks = found.plot(labels=False, boxes=False)
    inside: BoolArray = np.logical_or.reduce(masks(), axis=0)
    outside = ~np.asarray(cv2.dilate(inside.astype(np.uint8), np.ones((5, 5), np.uint8)), np.bool_)
    np.testing.assert_array_equal(only_masks[outside], before[outside])
    assert (only_masks[inside] != before[inside]).any(axis=1).mean() > 0.9
    assert (found.plot(conf=False) != picture).any()
    drawn = found.plot(pil=True)
    np.testing.assert_array_equal(np.asarray(drawn)[..., ::-1], picture)


def test_plot_on_another_image_and_its_errors(tmp_path: Path) -> None:
    found = results()
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert not found.plot(img=black, labels=False, boxes=False)[99, 0].any()
    with pytest.raises(UsageError, match="img is 10 x 10 px") as caught:
        found.plot(img=black[:10, :10])
    assert one_line(caught.value)
    with pytest.raises(UsageError, match="invalid color_mode 'rainbow'"):
        found.plot(color_mode=cast("Any", "rainbow"))
    found.plot(save=True, filename=tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_colour_modes() -> None:
    same = results(boxes=BOXES * np.array([1, 1, 1, 1, 1, 0], np.float32), prompt_index=[0, 0, 0])
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    by_class = same.plot(img=black, labels=False, boxes=False)
    by_instance = same.plot(img=black, labels=False, boxes=False, color_mode="instance")
    np.testing.assert_array_equal(by_class[20, 40], by_class[85, 170])
    assert (by_instance[20, 40] != by_instance[85, 170]).any()


def test_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results()
    path = found.save(tmp_path / "deep" / "overlay.png")
    assert path == str(tmp_path / "deep" / "overlay.png")
    np.testing.assert_array_equal(cv2.imread(path), found.plot())
    monkeypatch.chdir(tmp_path)
    assert found.save() == "results_photo.jpg"
    found.save_dir = "runs"
    assert found.save() == str(Path("runs") / "results_photo.jpg")
    assert (tmp_path / "runs" / "results_photo.jpg").is_file()
    assert Results(image()).save() == "results_image.jpg"


def test_save_txt(tmp_path: Path) -> None:
    path = tmp_path / "labels" / "photo.txt"
    found = results()
    assert found.save_txt(path) == str(path)
    lines = path.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "2"]  # one pixel is no polygon; prompt 1 was dropped
    numbers = np.array(lines[0].split()[1:], float).reshape(-1, 2)
    assert {tuple(point) for point in numbers.tolist()} == {(0.1, 0.1), (0.3, 0.1), (0.3, 0.3), (0.1, 0.3)}
    found.save_txt(path, save_conf=True, parts="all")
    lines = path.read_text().splitlines()
    assert len(lines) == 2 + 3  # appended; each part has a line
    assert [line.split()[-1] for line in lines[2:]] == ["0.95", "0.5", "0.5"]
    assert all(len(line.split()) % 2 == 0 for line in lines[2:])


def test_save_txt_of_boxes(tmp_path: Path) -> None:
    path = tmp_path / "photo.txt"
    results(masks=None).save_txt(path)
    assert path.read_text() == "0 0.2 0.2 0.2 0.2\n2 0.725 0.7 0.45 0.4\n3 0.035 0.05 0 0\n"
    results(masks=None)[0].save_txt(path, save_conf=True)
    assert path.read_text().endswith("\n0 0.2 0.2 0.2 0.2 0.95\n")


def test_save_crop(tmp_path: Path) -> None:
    found = results(names={0: "cup", 2: "a/b", 3: ".."})
    first = found.save_crop(tmp_path, "photo.png", margin=0)
    assert [str(Path(path).relative_to(tmp_path)) for path in first] == [
        "cup/photo.png",
        "a_b/photo.png",
        "_/photo.png",
    ]
    np.testing.assert_array_equal(cv2.imread(first[0]), found.orig_img[10:31, 20:61])
    np.testing.assert_array_equal(cv2.imread(first[2]), found.orig_img[5:6, 7:8])
    again = found[0].save_crop(tmp_path, "photo.png")
    assert Path(again[0]).name == "photo2.png"
    assert np.asarray(cv2.imread(again[0])).shape == (41, 61, 3)
    assert Path(found[0].save_crop(tmp_path)[0]).name == "im.jpg"


@pytest.mark.parametrize(
    "write",
    [
        lambda found, path: found.save(path / "a.png"),
        lambda found, path: found.save_txt(path / "a.txt"),
        lambda found, path: found.save_crop(path / "crops"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, write: Callable[[Results, Path], object]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        write(results(), tmp_path / "file")
    assert one_line(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk() -> None:
    with pytest.raises(StorageError, match="No space left") as caught:
        results().save_txt("/dev/full")
    assert "Free some space" in str(caught.value)
    assert one_line(caught.value)


def test_summary() -> None:
    first, second, _ = results().summary()
    assert list(first) == ["name", "class", "confidence", "box", "segments"]
    assert (first["name"], first["class"], first["confidence"]) == ("0", 0, 0.95)
    assert first["box"] == {"x1": 20.0, "y1": 10.0, "x2": 60.0, "y2": 30.0}
    assert sorted(first["segments"]["x"]) == [20, 20, 60, 60]
    assert sorted(first["segments"]["y"]) == [10, 10, 30, 30]
    shares = results().summary(normalize=True, decimals=2)[1]
    assert shares["box"] == {"x1": 0.5, "y1": 0.5, "x2": 0.95, "y2": 0.9}
    assert second["name"] == "2"
    assert "segments" not in results(masks=None).summary()[0]


def test_json_and_csv() -> None:
    found = results()
    assert json.loads(found.to_json()) == found.summary()
    rows = list(csv.DictReader(io.StringIO(found.to_csv(normalize=True))))
    assert [row["class"] for row in rows] == ["0", "2", "3"]
    assert json.loads(rows[0]["box"]) == {"x1": 0.1, "y1": 0.1, "x2": 0.3, "y2": 0.3}
    assert json.loads(rows[0]["segments"]) == found.summary(normalize=True)[0]["segments"]


def test_data_frame_without_and_with_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="pandas") as caught:
        results().to_df()
    assert "pip install pandas" in str(caught.value)
    assert one_line(caught.value)
    monkeypatch.setitem(sys.modules, "pandas", cast("Any", SimpleNamespace(DataFrame=list)))
    assert results().to_df() == results().summary()


def test_rle_keeps_holes_and_parts() -> None:
    drawn = masks()
    drawn[0, 15:20, 30:40] = False
    for rle, mask in zip(results(masks=drawn).to_rle(), drawn, strict=True):
        np.testing.assert_array_equal(decode_rle(rle), mask)


def test_coco_annotations() -> None:
    first, second, third = results().to_coco(image_id=7)
    assert {**first, "segmentation": None} == {
        "id": 1,
        "image_id": 7,
        "category_id": 0,
        "segmentation": None,
        "bbox": [20.0, 10.0, 41.0, 21.0],
        "area": 41 * 21,
        "iscrowd": 0,
        "score": pytest.approx(0.95),
        "prompt_index": 0,
    }
    assert coco.area(first["segmentation"]) == 41 * 21
    assert (second["category_id"], second["prompt_index"]) == (2, 2)
    assert third["bbox"] == [7.0, 5.0, 1.0, 1.0]
    assert {one["category_id"] for one in results().to_coco(category_id=9)} == {9}
    json.dumps(first)


def test_a_grey_image_of_one_pixel() -> None:
    found = Results(np.zeros((1, 1, 3), np.uint8), masks=np.ones((1, 1, 1), np.bool_))
    assert found.plot().shape == (1, 1, 3)
    assert found.to_coco()[0]["bbox"] == [0.0, 0.0, 1.0, 1.0]
    assert "Results(1 0" in repr(found)
