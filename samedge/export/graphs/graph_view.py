"""An ONNX graph as passes over it want to see it: who makes a tensor, who takes it, and which tensors hold floats.

Needs onnx and numpy only, because a board that finishes a bundle has no torch.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

import onnx
from onnx import TensorProto, helper, numpy_helper

from samedge.errors import ExportError
from samedge.types import Array

_SMALL: Final = 1024
"""Initializers of fewer numbers may be shapes and axes, on which the types of others depend: inference sees them."""

_NO_FLOATS: Final = frozenset(
    ("Shape", "Size", "ArgMax", "ArgMin", "NonZero", "Equal", "Less", "Greater", "Not", "And")
)


class GraphView:
    """A graph with its nodes in order, indexed by the tensors between them.

    A snapshot: it does not follow changes of the graph.

    Args:
        model: A model; Constant nodes in it become initializers.

    Attributes:
        graph: The graph.
        nodes: Its nodes, in an order in which they can run.
        constants: Initializers by name.
        inputs: Names of the inputs that are no initializers.
        outputs: Names of the outputs.
        opset: Version of the default operators.

    Raises:
        ExportError: There are branches or loops in it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        _lift_constants(self.graph)
        self.nodes = list(self.graph.node)
        for node in self.nodes:
            if any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute):
                raise ExportError(
                    f"the graph has a {node.op_type} node, and what branches is not understood",
                    where=self.graph.name,
                    cure="Export the model again with samedge",
                )
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.inputs = [value.name for value in self.graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in self.graph.output]
        self.opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 17)
        self._producer: dict[str, int] = {}
        self._consumers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for name in node.output:
                self._producer[name] = index
            for name in dict.fromkeys(node.input):
                self._consumers[name].append(index)
        self._types = _element_types(model, self)

    def producer(self, name: str) -> int | None:
        """Return which node makes a tensor; None for inputs and initializers."""
        return self._producer.get(name)

    def consumers(self, name: str) -> list[int]:
        """Return which nodes take a tensor."""
        return self._consumers.get(name, [])

    def element_type(self, name: str) -> int:
        """Return the TensorProto element type of a tensor."""
        return self._types.get(name, TensorProto.UNDEFINED)

    def is_float(self, name: str) -> bool:
        """Return True if a tensor holds float32."""
        return self.element_type(name) == TensorProto.FLOAT

    def floats_in(self, index: int) -> list[str]:
        """Return the float32 inputs of a node that are no initializers."""
        return [name for name in self.nodes[index].input if name not in self.constants and self.is_float(name)]

    def before(self, index: int) -> list[int]:
        """Return the nodes whose float32 results a node takes."""
        found = (self.producer(name) for name in self.floats_in(index))
        return [producer for producer in found if producer is not None]

    def after(self, index: int) -> list[int]:
        """Return the nodes that take a float32 result of a node."""
        return [user for name in self.nodes[index].output if self.is_float(name) for user in self.consumers(name)]

    def constant(self, name: str) -> Array | None:
        """Return the values of an initializer; None for other tensors."""
        tensor = self.constants.get(name)
        if tensor is None:
            return None
        values: Array = numpy_helper.to_array(tensor)
        return values

    def largest_weight(self, index: int) -> int:
        """Return how many numbers the largest initializer that a node takes has; 0 if it takes none."""
        return max(
            (_count(self.constants[name]) for name in self.nodes[index].input if name in self.constants), default=0
        )


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node as plain values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Put other nodes in the place of a graph's; they may be the graph's own."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def drop_unused_constants(graph: onnx.GraphProto) -> None:
    """Take away initializers that no node uses."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def _count(tensor: TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers."""
    kept = []
    for node in graph.node:
        values = attributes_of(node) if node.op_type == "Constant" else {}
        if isinstance(values.get("value"), TensorProto):
            tensor = TensorProto()
            tensor.CopyFrom(values["value"])
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        replace_nodes(graph, kept)


def _element_types(model: onnx.ModelProto, view: GraphView) -> dict[str, int]:
    """Infer the element type of every tensor, on a copy without weights: those may be more than protobuf can carry."""
    graph = onnx.GraphProto(name="types")
    graph.node.extend(view.nodes)
    graph.input.extend(value for value in view.graph.input if value.name not in view.constants)
    graph.output.extend(view.graph.output)
    for tensor in view.constants.values():
        if _count(tensor) < _SMALL and not tensor.external_data:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    light = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    light.opset_import.extend(model.opset_import)
    inferred = onnx.shape_inference.infer_shapes(light).graph
    types = {tensor.name: tensor.data_type for tensor in view.constants.values()}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.HasField("tensor_type"):
            types[value.name] = value.type.tensor_type.elem_type
    for node in view.nodes:  # operators that onnx does not know say the type of their first input
        for name in node.output:
            if types.get(name, TensorProto.UNDEFINED) == TensorProto.UNDEFINED and node.op_type not in _NO_FLOATS:
                types[name] = types.get(node.input[0] if node.input else "", TensorProto.UNDEFINED)
    return types
