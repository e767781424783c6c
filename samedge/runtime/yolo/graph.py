"""Description of a YOLO graph, from the names and shapes of its tensors and the exporter's metadata.

Graphs of Ultralytics and of this package use the same metadata.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from samedge.engines.protocol import Engine
from samedge.errors import EngineError
from samedge.types import TensorSpec

DEFAULT_IMAGE_SIZE: Final = (640, 640)
INPUT: Final = "images"
OUTPUT: Final = "output0"
PROTOTYPES: Final = "output1"
PARITY: Final = "samedge_parity"
"""Metadata key of the export's parity verdict, JSON."""


@dataclass(frozen=True, slots=True)
class YoloGraph:
    """Inputs and outputs of a YOLO graph.

    Attributes:
        names: Class names by number; empty if unknown.
        image_size: (height, width) of the input, px: fixed by the graph, otherwise the training size.
        fixed_size: True if the graph accepts no other size.
        stride: Coarsest stride of the model, px.
        segments: True if there are mask prototypes.
        suppressed: True if the graph suppresses boxes: ``[N, K, 6 + M]`` with corners, score and class.
        input: Name of the input.
        outputs: Names of the outputs, boxes first.
        half: True for a float16 input.
        batch: Fixed number of images; None if free.
        task: "detect", "segment", or the task in the metadata.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    image_size: tuple[int, int] = DEFAULT_IMAGE_SIZE
    fixed_size: bool = False
    stride: int = 32
    segments: bool = False
    suppressed: bool = False
    input: str = INPUT
    outputs: tuple[str, ...] = (OUTPUT,)
    half: bool = False
    batch: int | None = None
    task: str = "detect"


def describe_yolo(engine: Engine, metadata: Mapping[str, str]) -> YoloGraph:
    """Describe a YOLO graph from its tensors and its file's metadata, in Ultralytics' keys and formats.

    Raises:
        EngineError: The graph is not a YOLO detector or segmenter.
    """
    task = metadata.get("task", "")
    if task not in ("", "detect", "segment"):
        raise _no_yolo(engine, f"its task is {task!r}")
    inputs = list(engine.inputs.items())
    if len(inputs) != 1 or len(inputs[0][1].shape) != 4 or inputs[0][1].dtype not in (np.float32, np.float16):
        raise _no_yolo(engine, f"its inputs are {_described(engine.inputs)}")
    name, spec = inputs[0]
    if spec.shape[1] != 3 and not isinstance(spec.shape[1], str):
        raise _no_yolo(engine, f"its images have {spec.shape[1]} channels")
    boxes = [output for output, shape in engine.outputs.items() if len(shape.shape) == 3]
    prototypes = [output for output, shape in engine.outputs.items() if len(shape.shape) == 4]
    if len(boxes) != 1 or len(prototypes) > 1:
        raise _no_yolo(engine, f"its outputs are {_described(engine.outputs)}")
    height, width = spec.shape[2], spec.shape[3]
    fixed = isinstance(height, int) and isinstance(width, int)
    trained = _literal(metadata.get("imgsz", ""))
    return YoloGraph(
        names=_names(_literal(metadata.get("names", ""))),
        image_size=(int(height), int(width)) if fixed else _pair(trained),
        fixed_size=fixed,
        stride=_positive(_literal(metadata.get("stride", "")), 32),
        segments=bool(prototypes),
        suppressed=_suppressed(
            metadata, engine.outputs[boxes[0]], engine.outputs[prototypes[0]] if prototypes else None
        ),
        input=name,
        outputs=(*boxes, *prototypes),
        half=spec.dtype == np.float16,
        batch=spec.shape[0] if isinstance(spec.shape[0], int) else None,
        task="segment" if prototypes else "detect",
    )


def yolo_metadata(names: Mapping[int, str], image_size: tuple[int, int], task: str, **more: str) -> dict[str, str]:
    """Return the metadata of a graph file, as also read by Ultralytics' own runtime."""
    return {
        "names": repr(dict(names)),
        "imgsz": json.dumps(list(image_size)),
        "stride": "32",
        "task": task,
        "batch": "1",
        "channels": "3",
    } | more


def _suppressed(metadata: Mapping[str, str], boxes: TensorSpec, prototypes: TensorSpec | None) -> bool:
    args = _literal(metadata.get("args", ""))
    if isinstance(args, dict) and args.get("nms") is True:
        return True
    masks = 0 if prototypes is None else prototypes.shape[1]
    # Without suppression the last axis is the anchors, of which even the smallest input has 21.
    return isinstance(masks, int) and boxes.shape[2] == 6 + masks and boxes.shape[1] != 6 + masks


def _described(tensors: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{name} {spec}" for name, spec in tensors.items())


def _no_yolo(engine: Engine, why: str) -> EngineError:
    return EngineError(
        f"not a graph of a YOLO detector or segmenter: {why}",
        where=engine.name,
        cure="Give a graph of YOLOv8 or FastSAM; a SAM is opened with samedge.SAM or samedge.load",
    )


def _literal(text: str) -> object:
    """Return the value of a Python literal; None for anything else."""
    try:
        value: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value


def _names(value: object) -> dict[int, str]:
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {}
    # The header of an engine is JSON, whose keys are strings.
    return {int(key): str(name) for key, name in value.items() if isinstance(key, int) or str(key).isdecimal()}


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, int):
        value = (value, value)
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(v, int) and v > 0 for v in value):
        return value[0], value[1]
    return DEFAULT_IMAGE_SIZE


def _positive(value: object, default: int) -> int:
    return int(value) if isinstance(value, (int, float)) and value >= 1 else default
