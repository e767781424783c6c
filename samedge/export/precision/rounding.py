"""Emulation of a float16 graph with every result rounded to float16: its stand-in for judging without a GPU.

onnxruntime on a processor runs float16 graphs in float32 and takes out the casts in between, so that nothing is rounded
and nothing overflows: 300 squared is 90000 there, and infinite on a GPU. The twin is a float32 graph in which every
float16 result is rounded to float16 and back, with overflow to infinity, and the sums inside products, norms and
softmax are float32, as tensor cores have them. What a GPU fuses is rounded less often than here: the twin is the more
careful of the two, and the numbers of a real engine lie between it and float32.
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

_EXACT: Final = MOVES | {
    "Abs",
    "Clip",
    "GlobalMaxPool",
    "Max",
    "MaxPool",
    "Min",
    "Neg",
    "ReduceMax",
    "ReduceMin",
    "Relu",
}
"""Their results are among their operands."""

_F16, _F32 = TensorProto.FLOAT16, TensorProto.FLOAT


def rounding_twin(model: onnx.ModelProto) -> int:
    """Make a float16 graph its twin; changes the model.

    Args:
        model: A graph whose inputs and outputs are float32 or integers, as
            `samedge.export.precision.half.to_half` makes it.

    Returns:
        How many results are rounded; 0 if there is no float16 in the graph, which is unchanged then.
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
    """Give the file that a graph is judged by: itself, or its twin for a while if there is float16 in it.

    Args:
        path: An ONNX file. The twin is written beside it.
        precision: What its record says; a float32 graph is not looked at.

    Raises:
        EngineError: The onnxruntime that is installed takes the rounding out.
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
    """Make sure that onnxruntime leaves the rounding in a graph.

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
            "this onnxruntime computes float16 graphs without rounding, even where they ask for it",
            cure="Use onnxruntime 1.17 to 1.32, or export with precision fp32",
        )


def _to_single(node: onnx.NodeProto) -> None:
    """Make a cast between floats one that changes nothing, and a cast from integers one to float32."""
    for attribute in node.attribute:
        if attribute.name == "to":
            attribute.i = _F32


def _round(name: str, rounded: str) -> list[onnx.NodeProto]:
    """Return nodes that round float32 to float16 and back. Two casts in a row would be taken out."""
    half, between = f"{rounded}_half", f"{rounded}_between"
    return [
        helper.make_node("Cast", [name], [half], name=half, to=_F16),
        helper.make_node("Max", [half], [between], name=between),
        helper.make_node("Cast", [between], [rounded], name=f"{rounded}_rounded", to=_F32),
    ]
