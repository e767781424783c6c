"""Graphs of every kind of model, small ones: traced once in each process, because that is the slow part."""

from __future__ import annotations

import math
from functools import cache
from typing import Final

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

from samedge.engines.onnxruntime.engine import open_session, parse_device
from samedge.export.graphs.plans import GraphPlan, plan_graphs
from samedge.export.graphs.trace import trace
from samedge.export.yolo.graphs import plan_yolo
from samedge.models.sam.load import load_model
from samedge.models.sam.sam import Sam
from samedge.models.yolo.load import load_yolo
from samedge.types import Array, EncoderForm, IOScheme

VIT, TINY_VIT, DEMO, YOLO = "seeded:sam_vit_tiny", "seeded:tiny_vit_tiny", "sam_demo", "seeded:yolov8n-seg"
YOLO_SIDE: Final = 64

SMALL_GRAPHS: Final = (
    (VIT, "encoder", "mask"),
    (VIT, "encoder", "concat"),
    (TINY_VIT, "encoder", "mask"),
    (VIT, "decoder", "mask"),
    (VIT, "decoder_context", "mask"),
    (VIT, "decoder_prompts", "mask"),
    (VIT, "decoder_masks", "mask"),
    (YOLO, "yolo", "mask"),
)
"""Model, role and form of a graph of every kind."""

AXES: Final = {"batch": 1, "prompts": 2, "points": 3, "contexts": 1, "num_points": 5, "height": 72, "width": 128}
"""Sizes that free axes are run with."""


@cache
def loaded(source: str) -> Sam:
    """Returns a SAM, which nobody may change."""
    return load_model(source).model


@cache
def _traced(source: str, role: str, form: EncoderForm, opset: int, io: IOScheme) -> bytes:
    plans: tuple[GraphPlan, ...]
    if source == YOLO:
        plans = (plan_yolo(load_yolo(source).model, (YOLO_SIDE, YOLO_SIDE), dynamic=False),)
    else:
        plans = plan_graphs(loaded(source), io, form)
    data: bytes = trace(next(plan for plan in plans if plan.role == role), opset).SerializeToString()
    return data


def traced(
    source: str, role: str, form: EncoderForm = "mask", opset: int = 17, io: IOScheme = "native"
) -> onnx.ModelProto:
    """Returns a float32 graph; the copy is the caller's."""
    if role != "encoder":
        form = "mask"  # so that it is traced once
    model: onnx.ModelProto = onnx.ModelProto.FromString(_traced(source, role, form, opset, io))
    return model


def random_feeds(model: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    """Returns feeds for a graph: normal numbers, coordinates of an image of 128 px, labels of every kind."""
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [axis.dim_value or AXES[axis.dim_param] for axis in tensor.shape.dim]
        if tensor.elem_type == TensorProto.INT32:
            feeds[value.name] = np.resize(np.array([1, 3, -1, 0, 2], np.int32), math.prod(shape)).reshape(shape)
        elif value.name == "point_coords":
            feeds[value.name] = random.uniform(0, 128, shape).astype(np.float32)
        else:
            feeds[value.name] = random.normal(size=shape).astype(np.float32)
    return feeds


def run_graph(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Returns the outputs of a graph, computed by onnxruntime on one thread."""
    session = open_session(onnxruntime, model.SerializeToString(), parse_device("cpu"), 1)
    outputs: list[Array] = session.run(None, feeds)
    return outputs
