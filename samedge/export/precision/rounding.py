"""Emulation of float16 graphs with every result rounded, for judging them without a GPU.

On CPUs onnxruntime runs float16 graphs in float32 and removes the casts in between, so that nothing is rounded and
nothing overflows: 300 squared is 90000 there, and infinite on a GPU. The twin is a float32 graph in which every float16
result is rounded to float16 and back, with overflow to infinity; sums inside products, norms and softmax are float32,
as on tensor cores. GPUs round less often where they fuse nodes: a real engine lies between the twin and float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from samedge.engines.registry import open_engine
from samedge.errors import EngineError
from samedge.export.graphs.graph_view import GraphView, attributes_of, replace_nodes
from samedge.export.precision.half_islands import MOVES
from samedge.types import Precision

_EXACT: Final = MOVES.union(
    ("Abs", "Clip", "GlobalMaxPool", "Max", "MaxPool", "Min", "Neg", "ReduceMax", "ReduceMin", "Relu")
)
"""Operators whose results are among their operands."""

_F16, _F32 = TensorProto.FLOAT16, TensorProto.FLOAT


def rounding_twin(model: onnx.ModelProto) -> int:
    """Convert a float16 graph to its twin, in place.

    Args:
        model: A graph with float32 or integer inputs and outputs, as from `samedge.export.precision.half.to_half`.

    Returns:
        The number of rounded results; 0 for a graph without float16, which is unchanged.
    """
    view = GraphView(model)
    halves = {name for node in view.nodes for name in node.output if view.element_type(name) == _F16}
    nodes: list[onnx.NodeProto] = []
    rounded = 0
    for original in view.nodes:
        node = onnx.NodeProto.FromString(original.SerializeToString())
        if node.op_type == "Cast" and attributes_of(node)["to"] in (_F16, _F32):
            _to_single(node)
        nodes.append(node)
        if node.op_type in _EXACT:
            continue
        for place, name in enumerate(node.output):
            if name in halves:
                node.output[place] = f"{name}_unrounded"
                nodes.extend(_round(node.output[place], name))
                rounded += 1
    if rounded:
        replace_nodes(model.graph, nodes)
        del model.graph.value_info[:]
        for tensor in model.graph.initializer:
            if tensor.data_type == _F16:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    return rounded


@contextmanager
def judged_graph(path: Path, precision: Precision = "fp16") -> Iterator[Path]:
    """Yield the file to judge a graph by: its own, or a temporary twin if it has float16.

    Args:
        path: An ONNX file. The twin is written beside it.
        precision: Of its record; a float32 graph is not read.

    Raises:
        EngineError: The installed onnxruntime removes the rounding.
    """
    model = None if precision == "fp32" else onnx.load(str(path))
    if model is None or not rounding_twin(model):
        yield path
        return
    check_rounding()
    with tempfile.TemporaryDirectory(prefix=".twin-", dir=path.parent) as folder:
        twin = Path(folder) / path.name
        onnx.save(model, str(twin), save_as_external_data=True, location=f"{twin.name}.data")
        del model
        yield twin


def check_rounding() -> None:
    """Check that onnxruntime keeps the rounding in a graph.

    Raises:
        EngineError: It does not.
    """
    nodes = [helper.make_node("Mul", ["x", "x"], ["square_unrounded"]), *_round("square_unrounded", "square")]
    nodes.append(helper.make_node("Mul", ["square", "half"], ["y"]))
    ports = [helper.make_tensor_value_info(name, _F32, [2]) for name in "xy"]
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    graph = helper.make_graph(nodes, "rounding", ports[:1], ports[1:], [half])
    with tempfile.TemporaryDirectory(prefix="samedge-") as folder:
        path = Path(folder) / "rounding.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
        with open_engine(path, backend="onnxruntime", device="cpu", threads=1) as engine:
            have = engine.run({"x": np.array([300, 1.0009765625], np.float32)})["y"]
    if not np.array_equal(have, np.array([np.inf, 1.001953125 / 2], np.float32)):
        raise EngineError(
            "this onnxruntime removes explicit rounding to float16",
            cure="Use onnxruntime 1.17 to 1.32, or export with precision fp32",
        )


def _to_single(node: onnx.NodeProto) -> None:
    """Make a cast between floats a no-op, and a cast from integers one to float32."""
    for attribute in node.attribute:
        if attribute.name == "to":
            attribute.i = _F32


def _round(name: str, rounded: str) -> list[onnx.NodeProto]:
    """Return nodes that round float32 to float16 and back; two consecutive casts would be removed."""
    half, between = f"{rounded}_half", f"{rounded}_between"
    return [
        helper.make_node("Cast", [name], [half], name=half, to=_F16),
        helper.make_node("Max", [half], [between], name=between),
        helper.make_node("Cast", [between], [rounded], name=f"{rounded}_rounded", to=_F32),
    ]
