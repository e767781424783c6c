"""Graphs that TensorRT for RTX compiles in a fraction of a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_attention(path: Path, dtype: type[np.float16 | np.float32]) -> Path:
    """Writes softmax(q kT) v for two heads of 32 and 64 tokens."""
    kind = TensorProto.FLOAT16 if dtype is np.float16 else TensorProto.FLOAT
    nodes = [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["s"]),
        helper.make_node("Mul", ["s", "scale"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["o"]),
    ]
    ports = [helper.make_tensor_value_info(name, kind, [1, 2, 64, 32]) for name in "qkvo"]
    scale = numpy_helper.from_array(np.array(0.17, dtype), "scale")
    graph = helper.make_graph(nodes, "attention", ports[:3], ports[3:], [scale])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_affine(path: Path, *, beside: bool = False) -> Path:
    """Writes y = x w for x float32 [batch, 4], the weights in the file or beside it."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("x", 4), ("y", 3))
    ]
    weight = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "affine", ports[:1], ports[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=beside, location=f"{path.name}.data", size_threshold=0)
    return path
