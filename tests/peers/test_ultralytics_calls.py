"""Documented calls of Ultralytics' FastSAM, predict and Results pages as a table, ours beside theirs.

Their package runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from peers.ultralytics_calls import answers
from support.videos import frame, write_video

import samedge
from samedge.models.sam.seeded import seeded_state

SCRIPT = Path(__file__).with_name("ultralytics_calls.py")
NOT_INSTALLED = 3
ASSETS = Path(samedge.__file__).parent / "assets"
BOX = [60, 40, 300, 290]
READING = [
    "len(r)",
    "[int(box.cls) for box in r.boxes]",
    "[round(float(box.conf), 2) for box in r.boxes]",
    "[r.names[int(number)] for number in r.boxes.cls]",
    "r.boxes.cls.int().tolist()",
    "r.boxes.cpu().numpy().cls.astype(int).tolist()",
    "r.boxes.xyxy.cpu().numpy().tolist()",
    "r.boxes.xywh.to('cpu').float().tolist()",
    "r.boxes.xyxyn.tolist()",
    "list(r.boxes.data.shape)",
    "r.boxes[0].conf.item()",
    "[r.probs, r.keypoints, r.obb]",
    "list(r.orig_shape)",
    "sorted(r.speed)",
    "len(r.to('cpu').cpu().numpy())",
    "len(r.new())",
    "list(r.plot().shape)",
    "[sorted(row) for row in r.summary()]",
    "[row['class'] for row in r.summary(normalize=True, decimals=3)]",
    "model.task",
    "list(model.names.values())",
]
MASKS = [
    "list(r.masks.data.cpu().numpy().shape)",
    "[int(mask.sum()) for mask in r.masks.data.float()]",
    "len(r.masks.xy)",
    "r.masks.cpu().numpy().data.astype(bool).sum((1, 2)).tolist()",
]
METHODS = [
    "list(r.plot(conf=False, labels=False, boxes=False, line_width=2, font_size=8, color_mode='instance').shape)",
    "list(r.plot(pil=True).size)",
    "[r.save('SIDE.jpg') and Path('SIDE.jpg').exists()]",
    "r.save_txt('SIDE.txt') and [line.split()[0] for line in Path('SIDE.txt').read_text().splitlines()]",
    "(r.save_crop('SIDE'), sorted(p.parent.name for p in Path('SIDE').rglob('*.jpg')))[1]",
    "(r.new().update(boxes=r.boxes.data * 1), len(r.new()), len(r[:1]), len(r.numpy()))[1:]",
    "[len(each) for each in r]",
    "[row['box'].keys() == {'x1', 'y1', 'x2', 'y2'} for row in r.summary()]",
]
WRITTEN = ["[Path(r.save_dir).name, sorted(str(p.relative_to(r.save_dir)) for p in Path(r.save_dir).rglob('*.*'))]"]


SOURCES = ["len(rs)", "[Path(each.path).name for each in rs]", "[list(each.orig_shape) for each in rs]"]
STEMS = ["sorted(str(p.relative_to(r.save_dir).with_suffix('')) for p in Path(r.save_dir).rglob('*.*'))"]


def table(folder: Path) -> list[dict[str, Any]]:
    image = str(ASSETS / "coffee.jpg")
    clip = write_video(folder / "mixed" / "clip.mp4", frames=7)
    cv2.imwrite(str(clip.with_name("z.png")), frame(9))
    clip.with_name("list.txt").write_text("z.png\nclip.mp4\n")
    usual = {"device": "cpu", "verbose": False, "retina_masks": True, "imgsz": 320, "max_det": 9}
    model = [str(folder / "model.pt")]

    def call(kind: str, source: object = image, *, expressions: list[str], **keywords: Any) -> dict[str, Any]:
        return {
            "class": kind, "model": model, "arguments": [str(source)], "keywords": {**usual, **keywords},
            "expressions": expressions,
        }  # fmt: skip

    neutral = {"half": False, "augment": False, "visualize": False, "embed": None, "vid_stride": 1, "mode": "predict"}
    return [
        call("YOLO", expressions=[*READING, *MASKS, *METHODS]),
        call("YOLO", conf=0.3, iou=0.5, classes=0, expressions=READING),
        call("YOLO", classes=[0, 1], agnostic_nms=True, task="segment", stream=True, expressions=READING),
        call("YOLO", **neutral, batch=1, expressions=[*READING, *MASKS]),
        call("YOLO", save=True, project=str(folder / "SIDE"), expressions=WRITTEN),
        call("YOLO", save=True, save_txt=True, save_conf=True, project=str(folder / "SIDE"), expressions=WRITTEN),
        call("YOLO", save_txt=True, project=str(folder / "SIDE"), name="predict", exist_ok=True, expressions=WRITTEN),
        call("FastSAM", conf=0.4, iou=0.9, expressions=[*READING, *MASKS]),
        call("FastSAM", bboxes=[BOX], expressions=[*READING, *MASKS]),
        call("FastSAM", points=[[200, 200]], labels=[1], expressions=["len(r)"]),
        *(call("YOLO", clip, vid_stride=stride, expressions=SOURCES) for stride in (1, 2, 3)),
        call("YOLO", clip.parent, expressions=SOURCES),
        call("YOLO", clip.with_name("list.txt"), expressions=SOURCES),
        call("YOLO", clip, save=True, save_frames=True, project=str(folder / "SIDE"), name="clip", expressions=STEMS),
    ]  # fmt: skip


SAM_READING = [
    "len(rs)",
    "len(r)",
    "list(r.boxes.data.shape)",
    "r.boxes.xyxy.tolist()",
    "r.boxes.conf.tolist()",
    "r.boxes.cls.tolist()",
    "r.boxes.xywhn.tolist()",
    "[r.boxes.is_track, r.boxes.id]",
    "list(r.masks.data.shape)",
    "[int(mask.sum()) for mask in r.masks.data]",
    "[len(r.masks.xy), len(r.masks.xyn)]",
    "list(r.masks.orig_shape)",
    "[list(item) for item in sorted(r.names.items())]",
    "Path(r.path).name",
    "list(r.orig_shape)",
    "sorted(r.speed)",
    "[r.probs, r.keypoints, r.obb]",
    "[row['name'] for row in r.summary()]",
    "len(r[0])",
    "len(r[[0]].cpu().numpy())",
    "list(r.plot().shape)",
]


def sam_table(folder: Path) -> list[dict[str, Any]]:
    """Return the calls of Ultralytics' page on SAM, and those of MobileSAM's, on seeded weights."""
    image, weights = str(ASSETS / "coffee.jpg"), str(folder / "mobile_sam.pt")
    usual = {"device": "cpu", "verbose": False}

    def call(*, expressions: list[str] = SAM_READING, **keywords: Any) -> dict[str, Any]:
        return {
            "class": "SAM", "model": [weights], "arguments": [image], "keywords": {**usual, **keywords},
            "expressions": expressions,
        }  # fmt: skip

    def predictor(*, expressions: list[str] = SAM_READING, **keywords: Any) -> dict[str, Any]:
        overrides = {
            "conf": 0.25, "task": "segment", "mode": "predict", "imgsz": 1024, "model": weights, "save": False,
            "verbose": False, "device": "cpu",
        }  # fmt: skip
        return {
            "class": "SAMPredictor", "model": [overrides], "arguments": [image], "keywords": keywords,
            "expressions": expressions,
        }  # fmt: skip

    box, two = [60, 40, 300, 290], [[60, 40, 300, 290], [10, 10, 200, 200]]
    return [
        call(bboxes=box, expressions=[*SAM_READING, "model.task"]),
        call(bboxes=two),
        call(points=[200, 150], labels=[1]),
        call(points=[200, 150]),
        call(points=[[200, 150], [300, 300]], labels=[1, 1]),
        call(points=[[[200, 150], [300, 300]]], labels=[[1, 1]]),
        call(points=[[[200, 150], [300, 300]]], labels=[[1, 0]]),
        call(bboxes=box, points=[200, 150], labels=[1]),
        call(bboxes=box, conf=0.9, expressions=["len(r)"]),
        call(bboxes=box, save=True, save_txt=True, project=str(folder / "SIDE"), expressions=WRITTEN),
        predictor(bboxes=[box]),
        predictor(points=[200, 150], labels=[1]),
        # Of several masks for a prompt, their class is the mask's number and ours is the prompt's.
        predictor(
            points=[200, 150],
            labels=[1],
            multimask_output=True,
            expressions=["len(r)", "list(r.masks.data.shape)", "r.boxes.conf.tolist()", "r.boxes.xyxy.tolist()"],
        ),
        predictor(points=[[200, 150]], labels=[1]),
        predictor(bboxes=[box], points=[[200, 150]], labels=[1]),
    ]


@pytest.mark.integration
def test_each_call_of_sam_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(seeded_state("mobile_sam"), tmp_path / "mobile_sam.pt")
    compare_calls(sam_table(tmp_path), None, tmp_path, monkeypatch)


@pytest.mark.integration
def test_each_call_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = table(tmp_path)
    pictures = [str(ASSETS / name) for name in ("coffee.jpg", "scene.jpg")]
    path = calls[0]["model"][0]
    make = {"do": "make", "model": "yolov8n-seg", "classes": 3, "seed": 1, "images": pictures, "path": path}
    compare_calls(calls, make, tmp_path, monkeypatch)


def compare_calls(
    calls: list[dict[str, Any]], make: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare what each expression of each call gives, ours with theirs."""
    output = tmp_path / "answers.json"
    theirs = json.loads(json.dumps(calls).replace("SIDE", "theirs"))
    (tmp_path / "job.json").write_text(json.dumps({"make": make, "calls": theirs, "output": str(output)}))
    done = subprocess.run([sys.executable, SCRIPT, tmp_path / "job.json"], capture_output=True, text=True, cwd=tmp_path)
    if done.returncode == NOT_INSTALLED:
        pytest.skip("ultralytics is not installed: pip install --no-deps ultralytics")
    assert done.returncode == 0, done.stderr[-2000:]
    monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    ours = answers(samedge, json.loads(json.dumps(calls).replace("SIDE", "ours")))
    for call, own, their in zip(calls, ours, json.loads(output.read_text()), strict=True):
        for expression, a, b in zip(call["expressions"], own, their, strict=True):
            said = f"{call['class']} {call['keywords']}: {expression}"
            try:
                np.testing.assert_allclose(a, b, rtol=0.01, atol=0.02, err_msg=said)
            except (TypeError, ValueError):  # names
                assert a == b, said
