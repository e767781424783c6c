"""``samedge export``, ``info`` and ``predict`` with a YOLO."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.bundles import write_small_bundle
from support.program import Program
from support.yolo_models import CONF, DETECTOR, SMALL, bundle, checkpoint

import samedge
from samedge.bundle.archive import bundle_manifest, open_bundle
from samedge.runtime.image.read import read_image

ASSETS = Path(samedge.__file__).parent / "assets"
COFFEE = ASSETS / "coffee.jpg"


def test_export(program: Program, tmp_path: Path) -> None:
    target = tmp_path / "a.samedge"
    options = ("--nms", "--conf", "0.02", "--iou", "0.6", "--max-det", "30", "--agnostic-nms", "--no-dynamic")
    done = program("export", checkpoint(SMALL), "--image-size", "64", "-o", target, *options)
    assert (done.status, done.out) == (0, f"{target}\n")
    assert "parity: passed" in done.err
    assert "box error" in done.err
    manifest = bundle_manifest(target)
    assert manifest.yolo is not None
    assert manifest.yolo.nms is not None
    assert (manifest.yolo.nms.conf, manifest.yolo.nms.iou, manifest.yolo.nms.max_det) == (0.02, 0.6, 30)
    assert (manifest.yolo.nms.agnostic, manifest.yolo.dynamic, manifest.yolo.image_size) == (True, False, (64, 64))
    shown = program("info", target).out
    for said in ("segment", "64 x 64 px", "conf 0.02, iou 0.6, max_det 30, across classes", "8, 16, 32", "not known"):
        assert said in shown


def test_info(program: Program) -> None:
    done = program("info", bundle(DETECTOR))
    assert (done.status, done.err) == (0, "")
    for said in ("yolov8", "detect", "2: 0, 1", "on the host", "any multiples of 32 px, default 128 x 128"):
        assert said in done.out
    document = json.loads(program("info", bundle(DETECTOR), "--json").out)
    assert document["yolo"]["task"] == "detect"
    assert document["parity"]["box_error_max"] > 0


def test_info_of_a_checkpoint(program: Program) -> None:
    done = program("info", "seeded:yolov8n-seg")
    assert (done.status, done.err) == (0, "")
    assert "12.0 per image" in done.out
    assert "3,404,320" in done.out


def test_predict(program: Program, tmp_path: Path) -> None:
    target, picture, labels = tmp_path / "a.json", tmp_path / "a.png", tmp_path / "a.txt"
    done = program(
        "predict", bundle(SMALL), COFFEE, "--conf", CONF, "--max-det", "4", "--json", target, "--save", picture,
        "--txt", labels,
    )  # fmt: skip
    assert (done.status, done.err) == (0, "")
    assert "class" in done.out
    (image,) = json.loads(target.read_text())["images"]
    assert 0 < len(image["objects"]) <= 4
    assert read_image(picture).shape == (400, 600, 3)
    assert len(labels.read_text().splitlines()) == len(image["objects"])
    kinds = {each["category_id"] for each in image["objects"]}
    only = program(
        "predict", bundle(SMALL), COFFEE, "--conf", CONF, "--class", min(kinds), "--json", "-", "--iou", "0.5",
        "--agnostic-nms", "--imgsz", "64",
    )  # fmt: skip
    assert {each["category_id"] for each in json.loads(only.out)["images"][0]["objects"]} <= {min(kinds)}


def test_a_detector(program: Program, tmp_path: Path) -> None:
    done = program("predict", bundle(DETECTOR), COFFEE, "--conf", "0.01", "--json", "-")
    assert (done.status, done.err) == (0, "")
    objects = json.loads(done.out)["images"][0]["objects"]
    assert objects
    assert all(each["area"] == pytest.approx(each["bbox"][2] * each["bbox"][3]) for each in objects)
    shown = program("predict", bundle(DETECTOR), COFFEE, "--conf", "0.01")
    assert "area" not in shown.out
    refused = program("predict", bundle(DETECTOR), COFFEE, "--point", "3,4")
    assert (refused.status, refused.out) == (1, "")
    assert "this model has none" in refused.err


def test_prompts_choose(program: Program) -> None:
    done = program("predict", bundle(SMALL), COFFEE, "--conf", CONF, "--box", "100,50,400,300", "--json", "-")
    assert (done.status, done.err) == (0, "")
    assert len(json.loads(done.out)["images"][0]["objects"]) == 1


def test_a_graph_file_and_a_checkpoint(program: Program, cache: Path) -> None:
    found = []
    for model in (bundle(SMALL), open_bundle(bundle(SMALL)).graph_path("yolo"), checkpoint(SMALL)):
        done = program("predict", model, COFFEE, "--conf", CONF, "--imgsz", "128", "--json", "-", "--backend", "ort")
        assert done.status == 0
        found.append([each["bbox"] for each in json.loads(done.out)["images"][0]["objects"]])
    assert found[0] == found[1] == found[2]
    assert found[0]
    assert [path.name for path in cache.iterdir()] == ["exports"]


@pytest.mark.parametrize("option", [["--multimask"], ["--each-point"], ["--mode", "fast"], ["--crop-n-layers", "1"]])
def test_options_of_a_sam(program: Program, option: list[str]) -> None:
    point = [] if option[0] in {"--mode", "--crop-n-layers"} else ["--point", "3,4"]
    done = program("predict", bundle(SMALL), COFFEE, *point, *option)
    assert done.status == 1
    assert f"{option[0]}: not supported for a YOLO" in done.err


@pytest.mark.parametrize("option", [["--iou", "0.5"], ["--max-det", "3"], ["--class", "1"], ["--imgsz", "64"]])
def test_options_of_a_yolo(program: Program, tmp_path: Path, option: list[str]) -> None:
    done = program("predict", write_small_bundle(tmp_path / "sam"), COFFEE, *option)
    assert done.status == 1
    assert f"{option[0]}: not supported for a SAM" in done.err
