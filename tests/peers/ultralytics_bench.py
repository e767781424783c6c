"""Lets ``samedge bench`` measure Ultralytics' own package, in a process of its own.

Ultralytics is AGPL-3.0: samedge never imports it. This script speaks the protocol of
`samedge.benchmarks.bench.stages.peer_protocol` on stdin and stdout; it imports nothing of samedge
where torchvision works by itself, so that it can run in the virtual environment of an Ultralytics user:

    samedge bench --peer 'ultralytics=/path/to/venv/bin/python tests/peers/ultralytics_bench.py'
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PROTOCOL = 1
SIDE = 640
RELEASED = ("sam_b.pt", "sam_l.pt", "sam_h.pt", "mobile_sam.pt")
ARCHITECTURES = dict(zip(("sam_vit_b", "sam_vit_l", "sam_vit_h", "mobile_sam"), RELEASED, strict=True))
FAST_SAM = {"fastsam-s": "yolov8s-seg", "fastsam-x": "yolov8x-seg"}
INCLUDES = {
    "set_image": "SAMPredictor.set_image: letterbox, normalise, image encoder",
    "prompt": "SAMPredictor called with one point after set_image: letterbox again, decoder, mask at the image's size",
    "boxes": "SAMPredictor called with 32 boxes after set_image: letterbox again, decoder, masks at the image's size",
    "everything": "SAMPredictor called without a prompt: letterbox, encoder, grid of points, filters, masks",
}
YOLO_INCLUDES = {
    "encode": "the network, by its own clock (Results.speed)",
    "everything": "the model called on BGR pixels: letterbox, network, suppression, masks at the image's size",
}

Stage = Callable[[int], dict[str, Any]]


class CannotError(Exception):
    """What is asked for cannot be done; the message says why."""


def start() -> Any:
    """Imports the package without letting it look at the network, the home folder or pip."""
    os.environ |= {
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": tempfile.mkdtemp(),
        "YOLO_VERBOSE": "false",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import_module("torchvision")
        except (ImportError, RuntimeError):  # compiled for another build of torch
            import_module("samedge.benchmarks.reference.packages").torchvision()
        return import_module("ultralytics")


def hello() -> dict[str, Any]:
    missing = [name for name in ("ultralytics", "torch", "torchvision") if find_spec(name) is None]
    said: dict[str, Any] = {"protocol": PROTOCOL, "name": "ultralytics"}
    if missing:
        return {**said, "can": False, "reason": f"{', '.join(missing)}: not installed in {sys.executable}"}
    return {**said, "version": f"ultralytics {version('ultralytics')}, torch {version('torch')}"}


def open_model(asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Stage]]:
    if not asked.get("weights"):
        raise CannotError("there is no file with the weights")
    package = start()
    import torch

    torch.set_num_threads(asked["threads"])
    device = asked.get("device") or "cpu"
    stages = sam_stages(asked, device) if asked["family"] == "sam" else yolo_stages(package, asked, device)
    includes = INCLUDES if asked["family"] == "sam" else YOLO_INCLUDES
    opened = {
        "stages": {name: includes[name] for name in stages},
        "without": {"preprocess": "it is part of set_image", "encode": "it is part of set_image"}
        if asked["family"] == "sam"
        else dict.fromkeys(("preprocess", "prompt", "boxes"), "its classes do all in one call"),
        "image_stages": [] if asked["family"] == "sam" else ["everything"],
        "backend": "torch",
        "device": device,
        "details": {"ultralytics": version("ultralytics"), "torch": version("torch"), "threads": str(asked["threads"])},
    }  # fmt: skip
    return opened, stages


def timed(call: Callable[[], Any], count: Callable[[Any], int] | None = None) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "figures": {} if count is None else {"masks": count(result)}}


def masks_of(results: Any) -> int:
    return sum(len(result) for result in results)


def pictures_of(asked: dict[str, Any]) -> list[Any]:
    import cv2

    return [cv2.imread(path) for path in asked["images"]]


def sam_stages(asked: dict[str, Any], device: str) -> dict[str, Stage]:
    path = Path(asked["weights"])
    if path.name not in RELEASED:
        wanted = ARCHITECTURES.get(asked["architecture"])
        if wanted is None:
            raise CannotError(f"it knows SAM by the names of its files, and {asked['architecture']} is none of them")
        link = Path(tempfile.mkdtemp()) / wanted
        link.symlink_to(path.resolve())
        path = link
    kind: Any = import_module("ultralytics.models.sam").Predictor
    overrides = {"conf": 0.25, "task": "segment", "mode": "predict", "imgsz": 1024, "device": device}
    predictor = kind(overrides={**overrides, "model": str(path), "save": False, "verbose": False})
    pictures = pictures_of(asked)
    shown = -1

    def show(picture: int) -> None:
        nonlocal shown
        if shown != picture:
            set_image(picture)

    def set_image(picture: int) -> dict[str, Any]:
        nonlocal shown
        predictor.reset_image()
        ran = timed(lambda: predictor.set_image(pictures[picture]))
        shown = picture
        return ran

    def prompt(picture: int) -> dict[str, Any]:
        show(picture)
        return timed(lambda: predictor(points=[list(asked["points"][picture])], labels=[1]), masks_of)

    def boxes(picture: int) -> dict[str, Any]:
        show(picture)
        return timed(lambda: predictor(bboxes=[list(box) for box in asked["boxes"][picture]]), masks_of)

    def everything(picture: int) -> dict[str, Any]:
        nonlocal shown
        shown = -1
        predictor.reset_image()
        names = {
            "points_per_side": "points_stride",
            "pred_iou_thresh": "conf_thres",
            "stability_score_thresh": "stability_score_thresh",
        }
        options = {names[name]: value for name, value in asked["everything"].items()}
        return timed(lambda: predictor(source=pictures[picture], **options), masks_of)

    return {"set_image": set_image, "prompt": prompt, "boxes": boxes, "everything": everything}


def yolo_stages(package: Any, asked: dict[str, Any], device: str) -> dict[str, Stage]:
    weights = asked["weights"]
    if asked["source"].startswith("seeded:"):
        weights = saved_by_them(package, asked["architecture"], weights)
    model = (package.FastSAM if asked["family"] == "fastsam" else package.YOLO)(weights)
    pictures = pictures_of(asked)

    def call(picture: int) -> Any:
        return model(pictures[picture], imgsz=asked["image_size"], device=device, verbose=False, retina_masks=True)

    def encode(picture: int) -> dict[str, Any]:
        return {"wall": call(picture)[0].speed["inference"] / 1e3}

    return {"encode": encode, "everything": lambda picture: timed(lambda: call(picture), masks_of)}


def saved_by_them(package: Any, architecture: str, folded: str) -> str:
    """Puts weights whose batch norms were folded into a model of theirs, whose batch norms then do nothing."""
    import torch

    name = FAST_SAM.get(architecture, architecture)
    classes = 1 if architecture in FAST_SAM else 80
    tasks = import_module("ultralytics.nn.tasks")
    kind = tasks.SegmentationModel if name.endswith("-seg") else tasks.DetectionModel
    core = kind(f"{name}.yaml", nc=classes, verbose=False)
    given = torch.load(folded, weights_only=True)
    state = core.state_dict()
    for key, value in state.items():
        place = key.rpartition(".")[0]
        if not place.endswith(".bn"):
            state[key] = given[key]
        elif key.endswith("bn.bias"):
            state[key] = given[f"{place.removesuffix('bn')}conv.bias"]
        elif key.endswith("running_var"):
            state[key] = torch.full_like(value, 1 - core.get_submodule(place).eps)
    core.load_state_dict(state)
    core.eval()
    core.names = {number: str(number) for number in range(classes)}
    model = package.YOLO(f"{name}.yaml", verbose=False)
    model.model = core
    core.args, core.task = {**model.overrides, "imgsz": SIDE}, model.task
    path = str(Path(tempfile.mkdtemp()) / f"{architecture}.pt")
    model.save(path)
    return path


def peak() -> int:
    """The most resident bytes so far: on Linux of this process alone, as ru_maxrss begins with that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(stage: Stage, pictures: int) -> dict[str, Any]:
    runs = [stage(picture) for picture in range(pictures)]
    said: dict[str, Any] = {"wall": sum(run["wall"] for run in runs), "peak": peak()}
    if all("cpu" in run for run in runs):
        said["cpu"] = sum(run["cpu"] for run in runs)
    counts = [run["figures"]["masks"] for run in runs if run.get("figures")]
    return {**said, "figures": {"masks": sum(counts)}} if counts else said


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    stages: dict[str, Stage] = {}
    pictures = 0
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if request["do"] == "hello":
                answer = hello()
            elif request["do"] == "open":
                answer, stages = open_model(request)
                pictures = len(request["images"])
            elif request["do"] == "run":
                answer = run(stages[request["stage"]], pictures)
        except CannotError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if request["do"] == "close":
            return


if __name__ == "__main__":
    main()
