"""Runs a pair of graphs in an annotation tool's own code, in an environment of its own, and writes down the masks.

    python tool_masks.py osam | anylabeling  folder  image.npy  prompts.json  masks.npz

`folder` is a bundle of the tool's I/O scheme. A prompt is ``{"points": [[x, y]], "labels": [1], "box": [x1, y1, x2,
y2]}``.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def osam_masks(folder: Path, image: Any, prompts: list[dict[str, Any]]) -> list[Any]:
    types, models = import_module("osam.types"), import_module("osam._models.sam._models")
    onnxruntime = import_module("onnxruntime")

    class Own(models.Sam):  # type: ignore[misc, name-defined]  # untyped
        name = "own:latest"

        def __init__(self) -> None:
            (encoder,), (decoder,) = folder.glob("*.encoder.onnx"), folder.glob("*.decoder.single.onnx")
            self._inference_sessions = {
                "encoder": onnxruntime.InferenceSession(str(encoder), providers=["CPUExecutionProvider"]),
                "decoder": onnxruntime.InferenceSession(str(decoder), providers=["CPUExecutionProvider"]),
            }

    model, masks = Own(), []
    embedding = model.encode_image(image)
    for prompt in prompts:
        points, labels = list(prompt.get("points", [])), list(prompt.get("labels", []))
        if "box" in prompt:
            points += [prompt["box"][:2], prompt["box"][2:]]
            labels += [2, 3]
        given = types.Prompt(points=np.array(points, np.float32), point_labels=np.array(labels, np.int32))
        request = types.GenerateRequest(model="own:latest", image_embedding=embedding, prompt=given)
        (found,) = model.generate(request).annotations
        box, mask = found.bounding_box, np.zeros(image.shape[:2], bool)
        mask[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1] = found.mask
        masks.append(mask)
    return masks


def anylabeling_masks(folder: Path, image: Any, prompts: list[dict[str, Any]]) -> list[Any]:
    """AnyLabeling's or X-AnyLabeling's model, loaded by its own reading of the configuration."""
    package = import_module("anylabeling.services.auto_labeling.segment_anything")
    config = import_module("yaml").safe_load((folder / "anylabeling.yaml").read_text())
    config["config_file"] = str(folder / "anylabeling.yaml")
    settings: Any = import_module("anylabeling.config")
    settings.current_config_file = "{}"  # the user's settings, of X-AnyLabeling alone
    opened = package.SegmentAnything(config, lambda *_: None).model
    embedding, masks = opened.encode(image), []
    for prompt in prompts:
        marks = [
            {"type": "point", "data": point, "label": label}
            for point, label in zip(prompt.get("points", []), prompt.get("labels", []), strict=True)
        ]
        if "box" in prompt:
            marks.append({"type": "rectangle", "data": prompt["box"], "label": 1})
        masks.append(np.asarray(opened.predict_masks(embedding, marks))[0][0] > 0)
    return masks


def main() -> None:
    kind, folder, image, prompts, output = sys.argv[1:]
    run = {"osam": osam_masks, "anylabeling": anylabeling_masks}[kind]
    masks = run(Path(folder), np.load(image), json.loads(Path(prompts).read_text()))
    np.savez(output, *masks)


if __name__ == "__main__":
    main()
