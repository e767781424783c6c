"""Runs Ultralytics' own package in a process of its own and writes down what it says.

Ultralytics is AGPL-3.0: it is never imported by this package or by a test module. Tests start this script with a job
and read the files that it leaves. It refuses to start where the package is not installed (exit status 3).

    python ultralytics_reference.py job.json

The job is a list of steps, each a dictionary with "do":

* ``make``: builds ``model`` (a name of theirs such as "yolov8n-seg") with ``classes`` classes and random weights from
  ``seed``, and saves it to ``path`` as their training does. Batch norms have statistics of real images, and scores lie
  around the threshold. ``calm`` weakens what is added to the main path, as training does: otherwise deep networks of
  random weights amplify float32's rounding to many pixels.
* ``forward``: runs the model in ``path`` on the array in ``input`` and writes the outputs of its exported graph to
  ``output``.
* ``predict``: runs the model in ``path`` on ``images`` with the keywords in ``options`` and writes boxes and masks to
  ``output``; ``fastsam`` says which class of theirs does it, ``together`` that all images go in one list of arrays.
* ``export``: exports the model in ``path`` as ONNX with the keywords in ``options``, and moves it to ``output``.
* ``shapes``: writes key and shape of every weight of each of ``models`` to ``output``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NOT_INSTALLED = 3
CONF = 0.25


def start() -> Any:
    """Imports the package without letting it look at the network, the home folder or pip."""
    if find_spec("ultralytics") is None:
        sys.exit(NOT_INSTALLED)
    folder = tempfile.mkdtemp()
    os.environ |= {
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": folder,
        "YOLO_VERBOSE": "false",
    }
    sys.path.insert(0, str(Path(__file__).parent.parent))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("support.reference").torchvision()
        return import_module("ultralytics")


def make(package: Any, step: dict[str, Any]) -> None:
    import torch

    torch.manual_seed(step["seed"])
    tasks = import_module("ultralytics.nn.tasks")
    kind = tasks.SegmentationModel if "-seg" in step["model"] else tasks.DetectionModel
    core = kind(f"{step['model']}.yaml", nc=step["classes"], verbose=False)
    core.names = {number: f"thing {number}" for number in range(step["classes"])}
    for name, module in core.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
            if step.get("calm") and re.search(r"\.m\..*\.cv2\.bn$|\.(proj|pe|ffn\.1|mlp\.1)\.bn$", name):
                module.weight.data.mul_(0.2)
            module.momentum = None  # the plain mean over all batches
    pictures = torch.cat([tensor_of(path) for path in step["images"]])
    core.train()
    with torch.no_grad():
        for _ in range(2):
            core(pictures)
    core.eval()
    settle(core.model[-1], pictures, core, step["classes"])
    model = package.YOLO(f"{step['model']}.yaml", verbose=False)
    model.model = core
    core.args, core.task = {**model.overrides, "imgsz": 640}, model.task
    model.save(step["path"])


def settle(head: Any, pictures: Any, core: Any, classes: int) -> None:
    """Spreads what the head's last convolutions say: boxes of many sizes, and a few anchors that score well."""
    import torch

    def scale(mean: float, width: float) -> Any:
        def hook(conv: Any, _inputs: Any, out: Any) -> None:
            factor = width / (out.std((0, 2, 3)) + 1e-6)
            conv.bias.data.sub_(out.mean((0, 2, 3))).mul_(factor).add_(mean)
            conv.weight.data.mul_(factor.reshape(-1, 1, 1, 1))

        return hook

    top = -3.0 - 0.5 * (2 * torch.log(torch.tensor(float(classes)))).sqrt().item()
    boxes = (0.0, 1.5) if head.reg_max > 1 else (4.0, 1.0)
    spreads = {"cv2": boxes, "cv3": (top, 0.5), "cv4": (0.0, 1.0)}
    spreads |= {f"one2one_{name}": spread for name, spread in spreads.items()}
    hooks = [
        branch[-1].register_forward_hook(scale(*spread))
        for name, spread in spreads.items()
        for branch in getattr(head, name, [])
    ]
    with torch.no_grad():
        core(pictures)
    for hook in hooks:
        hook.remove()


def tensor_of(path: str, side: int = 448) -> Any:
    import cv2
    import torch

    image: Any = cv2.imread(path)
    image = cv2.resize(image, (side, side))
    return torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255


def forward(package: Any, step: dict[str, Any]) -> None:
    import numpy as np
    import torch

    # In float64: a deep network of random weights amplifies float32's rounding, differently on each processor.
    core = package.YOLO(step["path"]).model.double().eval()
    head = core.model[-1]
    head.export = True
    if step.get("end_to_end"):
        head.end2end = True
    with torch.no_grad():
        out = core(torch.from_numpy(np.load(step["input"])).double())
    arrays = out if isinstance(out, (tuple, list)) else [out]
    np.savez(step["output"], **{f"output{number}": array.numpy() for number, array in enumerate(arrays)})


def predict(package: Any, step: dict[str, Any]) -> None:
    import numpy as np

    kind = package.FastSAM if step.get("fastsam") else package.YOLO
    options = dict(step["options"])
    task = {"task": options.pop("task")} if "task" in options else {}
    model = kind(step["path"], **task)
    found = {}
    usual = {"conf": CONF, "device": "cpu", "verbose": False, "retina_masks": True, **options}
    if step.get("together"):
        cv2 = import_module("cv2")
        results = model([cv2.imread(image) for image in step["images"]], **usual)
    else:
        results = [model(image, **usual)[0] for image in step["images"]]
    for number, result in enumerate(results):
        found[f"boxes{number}"] = result.boxes.data.numpy()
        if result.masks is not None:
            masks = result.masks.data.numpy().astype(bool)
            found[f"masks{number}"], found[f"shape{number}"] = np.packbits(masks), np.array(masks.shape)
        found["names"] = np.array(json.dumps(result.names))
    np.savez(step["output"], **found)


def export(package: Any, step: dict[str, Any]) -> None:
    folder = Path(tempfile.mkdtemp())
    copy = folder / Path(step["path"]).name
    shutil.copy(step["path"], copy)
    made = package.YOLO(str(copy)).export(format="onnx", device="cpu", **step["options"])
    shutil.move(made, step["output"])


def shapes(package: Any, step: dict[str, Any]) -> None:
    tasks = import_module("ultralytics.nn.tasks")
    import torch

    known = {}
    for name, classes in step["models"]:
        layers, _ = tasks.parse_model({**tasks.yaml_model_load(f"{name}.yaml"), "nc": classes}, ch=3, verbose=False)
        core = torch.nn.Module()
        core.model = layers
        known[name] = {key: list(value.shape) for key, value in core.state_dict().items()}
    Path(step["output"]).write_text(json.dumps(known))


def main() -> None:
    steps = json.loads(Path(sys.argv[1]).read_text())
    package = start()
    for step in steps:
        {"make": make, "forward": forward, "predict": predict, "export": export, "shapes": shapes}[step["do"]](
            package, step
        )


if __name__ == "__main__":
    main()
