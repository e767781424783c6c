"""An ONNX graph indexed for passes over it: producers, consumers and types of tensors. Needs no torch."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, Final

import onnx
from onnx import TensorProto, helper, numpy_helper

from samedge.errors import ExportError
from samedge.types import Array

_SMALL: Final = 1024
"""Smaller initializers may be shapes and axes, whose values type inference needs."""

_NO_FLOATS: Final = frozenset(
    ("Shape", "Size", "ArgMax", "ArgMin", "NonZero", "Equal", "Less", "Greater", "Not", "And")
)


class GraphView:
    """A snapshot of a graph, with its nodes in order of execution.

    Args:
        model: A model; its Constant nodes become initializers.

    Attributes:
        graph: The graph.
        nodes: Its nodes.
        constants: Initializers by name.
        inputs: Names of the inputs other than initializers.
        outputs: Names of the outputs.
        opset: Version of the default operators.

    Raises:
        ExportError: The graph has branches or loops.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        _lift_constants(self.graph)
        self.nodes = list(self.graph.node)
        for node in self.nodes:
            if any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute):
                raise ExportError(
                    f"the graph has a {node.op_type} node, but branches and loops are not supported",
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
        """Return the index of the node that produces a tensor; None for inputs and initializers."""
        return self._producer.get(name)

    def consumers(self, name: str) -> list[int]:
        """Return the indices of the nodes that use a tensor."""
        return self._consumers.get(name, [])

    def element_type(self, name: str) -> int:
        """Return the TensorProto element type of a tensor."""
        return self._types.get(name, TensorProto.UNDEFINED)

    def is_float(self, name: str) -> bool:
        """Return True if a tensor holds float32."""
        return self.element_type(name) == TensorProto.FLOAT

    def floats_in(self, index: int) -> list[str]:
        """Return the float32 inputs of a node other than initializers."""
        return [name for name in self.nodes[index].input if name not in self.constants and self.is_float(name)]

    def before(self, index: int) -> list[int]:
        """Return the producers of a node's float32 inputs."""
        found = (self.producer(name) for name in self.floats_in(index))
        return [producer for producer in found if producer is not None]

    def after(self, index: int) -> list[int]:
        """Return the consumers of a node's float32 outputs."""
        return [user for name in self.nodes[index].output if self.is_float(name) for user in self.consumers(name)]

    def constant(self, name: str) -> Array | None:
        """Return the values of an initializer; None for other tensors."""
        tensor = self.constants.get(name)
        if tensor is None:
            return None
        values: Array = numpy_helper.to_array(tensor)
        return values

    def largest_weight(self, index: int) -> int:
        """Return the size of the largest initializer of a node; 0 without any."""
        weights = (self.constants[name] for name in self.nodes[index].input if name in self.constants)
        return max((math.prod(weight.dims) for weight in weights), default=0)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node as plain values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Replace the nodes of a graph; the new ones may include the old."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def drop_unused_constants(graph: onnx.GraphProto) -> None:
    """Remove initializers that no node uses."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


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
    """Infer the element type of every tensor, on a copy without weights, which may exceed protobuf's limit."""
    graph = onnx.GraphProto(name="types")
    graph.node.extend(view.nodes)
    graph.input.extend(value for value in view.graph.input if value.name not in view.constants)
    graph.output.extend(view.graph.output)
    for tensor in view.constants.values():
        if math.prod(tensor.dims) < _SMALL and not tensor.external_data:
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
    for node in view.nodes:  # operators unknown to onnx: the type of their first input
        for name in node.output:
            if types.get(name, TensorProto.UNDEFINED) == TensorProto.UNDEFINED and node.op_type not in _NO_FLOATS:
                types[name] = types.get(node.input[0] if node.input else "", TensorProto.UNDEFINED)
    return types
