"""``samedge predict``: masks, files and exit codes, with a model that draws its prompts and with a real one."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from support.bundles import write_small_bundle
from support.file_server import FileServer, serve
from support.program import Program
from support.videos import write_video

import samedge
from samedge.runtime.image.read import read_image
from samedge.runtime.masks.rle import decode_rle


def objects(document: dict[str, Any], image: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["images"][image]["objects"]
    return found


def test_masks_boxes_scores_and_prompts_as_json(program: Program, fake: Path, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "result.json"
    done = program("predict", fake, photo, "--box", "64,32,128,96", "--box", "0,0,32,48", "--json", target)
    assert (done.status, done.err) == (0, "")
    document = json.loads(target.read_text())
    assert (document["model"], document["backend"], document["device"]) == (str(fake), "fake", "cpu")
    (image,) = document["images"]
    assert (image["image"], image["width"], image["height"], image["id"]) == (str(photo), 256, 192, 0)
    assert image["dropped_prompts"] == []
    assert set(image["speed_ms"]) == {"preprocess", "inference", "postprocess"}
    first, second = image["objects"]
    assert (first["bbox"], second["bbox"]) == ([64, 32, 64, 64], [0, 0, 32, 48])
    assert (first["prompt_index"], second["prompt_index"]) == (0, 1)
    assert (first["category_id"], second["category_id"], second["image_id"]) == (0, 1, 0)
    assert first["score"] == pytest.approx(0.9)
    mask = decode_rle(first["segmentation"])
    assert mask.shape == (192, 256)
    assert mask[33:95, 65:127].mean() > 0.99
    assert mask.sum() == first["area"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with numpy 2
def test_coco_results(program: Program, fake: Path, photo: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("000000000139.png", "other.png"):
        shutil.copy(photo, folder / name)
    target = tmp_path / "results.json"
    boxes = ("--box", "64,32,128,96", "--box", "0,0,32,48")
    assert program("predict", fake, folder, *boxes, "--json", target, "--json-form", "coco").status == 0
    results = json.loads(target.read_text())
    assert [(one["image_id"], one["category_id"]) for one in results] == [(139, 1), (139, 2), (2, 1), (2, 2)]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 139, "width": 256, "height": 192}, {"id": 2, "width": 256, "height": 192}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(results)
    assert (loaded.annToMask(loaded.anns[1]) == decode_rle(results[0]["segmentation"])).all()
    done = program("predict", fake, photo, *boxes, "--json-form", "voc")
    assert (done.status, "unknown form 'voc'. Choose samedge or coco" in done.err) == (1, True)


def test_everything_without_prompts(program: Program, fake: Path, photo: Path, tmp_path: Path) -> None:
    discs = ("--points-per-side", "4", "--pred-iou-thresh", "0.75")
    done = program("predict", fake, photo, *discs, "--json", "-", "--save", tmp_path / "all.png")
    assert (done.status, done.err) == (0, "")
    found = objects(json.loads(done.out))
    assert len(found) == 16
    assert {round(each["score"], 4) for each in found} == {0.8}
    assert decode_rle(found[0]["segmentation"]).sum() == found[0]["area"]
    assert read_image(tmp_path / "all.png").shape == (192, 256, 3)
    fast = program("predict", fake, photo, *discs, "--mode", "fast", "--time-budget-ms", "60000", "--json", "-")
    assert len(objects(json.loads(fast.out))) == 16


def test_json_on_stdout_is_all_there_is(program: Program, fake: Path, photo: Path) -> None:
    done = program("predict", fake, photo, "--point", "100,50", "--json", "-")
    assert len(objects(json.loads(done.out))) == 1
    assert (done.status, done.err) == (0, "")


def test_the_table(program: Program, fake: Path, photo: Path) -> None:
    done = program("predict", fake, photo, "--box", "64,32,128,96", "--box", "0,0,32,48", "--conf", "0.5")
    assert f"{photo} 256×192" in done.out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.out.splitlines() if "0.900" in line]
    assert [row[:6] for row in rows] == [["0", "0.900", "64", "32", "127", "95"], ["1", "0.900", "0", "0", "31", "47"]]
    gone = program("predict", fake, photo, "--box", "64,32,128,96", "--conf", "0.95")
    assert (gone.status, "below --conf: dropped" in gone.out) == (0, True)


@pytest.mark.parametrize("name", ["x [bold]y[/bold].png", "[/red].png", "a[b].png"])
def test_names_that_look_like_markup(program: Program, fake: Path, photo: Path, name: str) -> None:
    odd = photo.with_name("odd") / name
    odd.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(photo, odd)
    done = program("predict", fake, odd, "--point", "100,50")
    assert done.status == 0
    assert f"{odd} 256×192" in done.out


def test_all_points_are_one_object_and_each_point_is_with_the_option(program: Program, fake: Path, photo: Path) -> None:
    points = ("--point", "100,50", "--point=200, 150", "--point", "104,50,0")
    (together,) = objects(json.loads(program("predict", fake, photo, *points, "--json", "-").out))
    mask = decode_rle(together["segmentation"])
    assert (mask[50, 70], mask[150, 200], mask[50, 104]) == (True, True, False)
    apart = objects(json.loads(program("predict", fake, photo, *points, "--each-point", "--json", "-").out))
    assert [entry["prompt_index"] for entry in apart] == [0, 1, 2]
    assert decode_rle(apart[1]["segmentation"])[150, 200]


def test_a_point_and_a_box_are_one_object(program: Program, fake: Path, photo: Path) -> None:
    done = program("predict", fake, photo, "--point", "90,60,0", "--box", "64,32,128,96", "--json", "-")
    (entry,) = objects(json.loads(done.out))
    assert entry["bbox"] == [64, 32, 64, 64]
    assert not decode_rle(entry["segmentation"])[60, 90]


def test_three_masks_a_prompt(program: Program, fake: Path, photo: Path) -> None:
    done = program("predict", fake, photo, "--point", "90,60", "--multimask", "--json", "-")
    found = objects(json.loads(done.out))
    assert [entry["prompt_index"] for entry in found] == [0, 0, 0]
    assert len({entry["area"] for entry in found}) == 3
    kept = program("predict", fake, photo, "--point", "90,60", "--multimask", "--conf", "0.75", "--json", "-")
    assert len(objects(json.loads(kept.out))) == 1


def test_a_mask_is_a_prompt(program: Program, fake: Path, photo: Path, tmp_path: Path) -> None:
    drawn = np.zeros((192, 256), np.uint8)
    drawn[32:96, 64:128] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), drawn)
    done = program("predict", fake, photo, "--mask", tmp_path / "mask.png", "--json", "-")
    assert objects(json.loads(done.out))[0]["bbox"] == pytest.approx([64, 32, 64, 64], abs=4)


def test_an_overlay_and_polygons_of_one_image(program: Program, fake: Path, photo: Path, tmp_path: Path) -> None:
    overlay, labels = tmp_path / "out" / "seen.jpg", tmp_path / "labels" / "photo.txt"
    arguments = ("predict", fake, photo, "--box", "64,32,128,96", "--save", overlay, "--txt", labels)
    assert program(*arguments).status == 0
    drawn = cv2.imread(str(overlay))
    assert drawn is not None
    assert drawn.shape == (192, 256, 3)
    (line,) = labels.read_text().splitlines()
    kind, *numbers = line.split()
    xy = np.array(numbers, np.float64).reshape(-1, 2) * (256, 192)
    assert kind == "0"
    assert [*xy.min(axis=0), *xy.max(axis=0)] == pytest.approx([64, 32, 127, 95], abs=0.01)
    program(*arguments)
    assert labels.read_text().splitlines() == [line, line]  # appended, as the help says


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path, photo: Path) -> Path:
        folder = tmp_path / "photos"
        folder.mkdir()
        image = read_image(photo)
        for name in ("frame10.png", "frame2.png", "same.png", "same.jpg"):
            cv2.imwrite(str(folder / name), image)
        return folder

    def test_the_same_prompts_on_each(self, program: Program, fake: Path, folder: Path, tmp_path: Path) -> None:
        result, overlays, labels = tmp_path / "result.json", tmp_path / "overlays", tmp_path / "labels"
        done = program(
            "predict", fake, folder, "--box", "64,32,128,96", "--json", result, "--save", overlays, "--txt", labels
        )
        assert (done.status, done.err) == (0, "")
        images = json.loads(result.read_text())["images"]
        assert [Path(image["image"]).name for image in images] == ["frame2.png", "frame10.png", "same.jpg", "same.png"]
        assert [(image["id"], image["objects"][0]["image_id"]) for image in images] == [(i, i) for i in range(4)]
        stems = ["frame10", "frame2", "same.jpg", "same.png"]
        assert sorted(path.name for path in overlays.iterdir()) == [f"{stem}.png" for stem in stems]
        assert sorted(path.name for path in labels.iterdir()) == [f"{stem}.txt" for stem in stems]
        assert all(len(path.read_text().splitlines()) == 1 for path in labels.iterdir())

    def test_a_broken_image_is_named_and_skipped(
        self, program: Program, fake: Path, folder: Path, tmp_path: Path
    ) -> None:
        (folder / "frame3.png").write_text("no image")
        cv2.imwrite(str(folder / "frame4.png"), np.zeros((5, 5, 3), np.uint8))  # the prompt is outside it
        done = program("predict", fake, folder, "--point", "64,32", "--json", "-")
        assert done.status == 1
        assert len(json.loads(done.out)["images"]) == 4
        broken, outside, summary = done.err.splitlines()
        assert broken.startswith(f"skipped: {folder / 'frame3.png'}: the file is not an image")
        assert outside.startswith(f"skipped: {folder / 'frame4.png'}: points: point 0 of prompt 0 is (64, 32), outside")
        assert summary == f"error: {folder}: 2 of 6 images were skipped. See the lines above"

    def test_patterns(self, program: Program, fake: Path, folder: Path) -> None:
        done = program("predict", fake, folder / "frame*.png", "--point", "64,32", "--json", "-")
        assert len(json.loads(done.out)["images"]) == 2

    def test_an_empty_folder(self, program: Program, fake: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        done = program("predict", fake, tmp_path / "empty", "--point", "64,32")
        assert done.status == 1
        assert done.err.startswith(f"error: {tmp_path / 'empty'}: no images found")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--multimask"], "--multimask: no prompt given. Give --point, --box or --mask"),
        (
            ["--point", "1,2", "--points-per-side", "8"],
            "--points-per-side: applies to segmenting everything, not to prompts",
        ),
        (["--points-per-side", "0"], "points_per_side: invalid points_per_side 0. Give a whole number, 1 or more"),
        (["--mode", "slow"], "mode: unknown mode 'slow'"),
        (["--time-budget-ms", "50"], "time_budget_ms: exact mode always prompts all points"),
        (["--point", "1"], "--point: invalid value '1'. Write it like this: --point 400,300"),
        (["--point", "-5,10"], "points: point 0 of prompt 0 is (-5, 10), outside the image of 256 x 192 px"),
        (["--point", "1,2,7"], "--point: invalid label 7 in '1,2,7'"),
        (["--box", "1,2,3"], "--box: invalid value '1,2,3'"),
        (["--point", "1,2", "--box", "1,2,30,40", "--box", "2,3,50,60"], "--point: 2 boxes given"),
        (["--mask", "none.npy"], "none.npy: cannot read this: No such file"),
        (["--point", "1,2", "--save", "picture.nope"], "picture.nope: unknown image format"),
    ],
)
def test_errors_are_one_line_and_a_status(
    program: Program, fake: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(photo.parent)
    done = program("predict", fake, photo, *arguments)
    assert (done.status, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith(f"error: {message}")


def test_an_image_that_is_not_there_is_told_before_the_model_is_opened(program: Program, tmp_path: Path) -> None:
    done = program("predict", "no_model.pt", tmp_path / "no_image.png", "--point", "1,2")
    assert done.err == f"error: {tmp_path / 'no_image.png'}: image not found. Check the path\n"


@pytest.mark.parametrize("option", ["--json", "--txt", "--save"])
def test_a_folder_that_cannot_be_made(program: Program, fake: Path, photo: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / "file" / "result.png"
    done = program("predict", fake, photo, "--box", "64,32,128,96", option, target)
    assert done.status == 1
    assert done.err.startswith(f"error: {target}: cannot write this: ")


class TestRealBundles:
    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        return write_small_bundle(tmp_path / "small-samedge")

    def test_the_same_as_the_api(self, program: Program, bundle: Path, photo: Path) -> None:
        done = program("predict", bundle, photo, "--point", "100,50", "--box", "64,32,200,150", "--json", "-")
        with samedge.load(bundle) as predictor:
            predictor.set_image(photo)
            want = predictor.predict(points=[[[100, 50]]], boxes=[[64, 32, 200, 150]])
        document = json.loads(done.out)
        assert document["backend"] == "onnxruntime"
        (entry,) = objects(document)
        np.testing.assert_array_equal(decode_rle(entry["segmentation"]), want.masks[0])
        assert entry["score"] == pytest.approx(float(want.scores[0]))

    def test_options_of_the_backend(self, program: Program, bundle: Path, photo: Path) -> None:
        arguments = ("predict", bundle, photo, "--point", "100,50")
        done = program(*arguments, "--backend", "onnxruntime", "--device", "cpu", "--threads", "1")
        assert (done.status, done.err) == (0, "")
        for option, value, message in (
            ("--backend", "abacus", "unknown backend 'abacus'"),
            ("--device", "cuda", "the device 'cuda:0' is unavailable"),
            ("--threads", "0", "invalid number of threads: 0"),
        ):
            done = program(*arguments, option, value)
            assert done.status == 1
            assert len(done.err.splitlines()) == 1
            assert message in done.err

    def test_a_bundle_that_failed(self, program: Program, tmp_path: Path, photo: Path) -> None:
        bundle = write_small_bundle(tmp_path / "failed-samedge", verdict="failed")
        done = program("predict", bundle, photo, "--point", "100,50")
        assert (done.status, "--force" in done.err) == (1, True)
        assert program("predict", bundle, photo, "--point", "100,50", "--force").status == 0

    def test_a_checkpoint_is_exported_into_the_cache(self, program: Program, photo: Path, cache: Path) -> None:
        first = program("predict", "seeded:sam_vit_tiny", photo, "--point", "100,50", "--json", "-")
        assert first.status == 0, first.err
        assert "Writing the encoder" in first.err
        assert json.loads(first.out)["model"] == "seeded:sam_vit_tiny"
        assert len(list((cache / "exports").iterdir())) == 1
        again = program("predict", "seeded:sam_vit_tiny", photo, "--point", "100,50", "--json", "-")
        assert again.err == ""
        assert objects(json.loads(again.out)) == objects(json.loads(first.out))


def test_a_video_frame_by_frame(program: Program, fake: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=6)
    target, labels, overlay = tmp_path / "all.json", tmp_path / "labels", tmp_path / "out" / "drawn.mp4"
    written = ("--json", target, "--txt", labels, "--save", overlay)
    done = program("predict", fake, clip, "--box", "8,8,40,40", "--vid-stride", "2", *written)
    assert (done.status, done.err) == (0, "")
    assert f"{clip} frame 4 64×48" in done.out
    images = json.loads(target.read_text())["images"]
    assert [(image["image"], image["frame"], len(image["objects"])) for image in images] == [
        (str(clip), number, 1) for number in (2, 4, 6)
    ]
    assert sorted(path.name for path in labels.iterdir()) == ["clip_2.txt", "clip_4.txt", "clip_6.txt"]
    drawn = cv2.VideoCapture(str(overlay))
    assert (drawn.get(cv2.CAP_PROP_FRAME_COUNT), drawn.get(cv2.CAP_PROP_FPS)) == (3, 5)
    assert program("predict", fake, clip, "--box", "8,8,40,40", "--save", tmp_path / "frames").status == 0
    assert len(list((tmp_path / "frames").glob("clip_*.png"))) == 6


def test_a_folder_of_images_and_videos(program: Program, fake: Path, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    write_video(folder / "b.mp4", frames=2)
    (folder / "c.avi").write_bytes(b"no video")
    done = program("predict", fake, folder, "--box", "8,8,40,40", "--save", tmp_path / "drawn")
    assert done.status == 1
    assert "skipped: " in done.err
    assert "the video cannot be opened" in done.err
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a.png", "b.mp4"]


def test_an_address_and_standard_input(
    program: Program, fake: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(FileServer(photo.read_bytes(), kind="image/png")) as server:
        done = program(
            "predict", fake, f"{server.address}/a/photo.png", "--box", "8,8,40,40", "--save", tmp_path / "x.png"
        )
    assert (done.status, done.err) == (0, "")
    assert f"{server.address}/a/photo.png 256×192" in done.out
    assert (tmp_path / "x.png").is_file()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(photo.read_bytes())))
    assert "stdin 256×192" in program("predict", fake, "-", "--box", "8,8,40,40").out
