"""int8 linear layers and convolutions written into a graph, so that one file means the same on every backend.

Weights are symmetric int8 with one scale per output; everything else (attention products, norms, softmax, activation
functions) stays float32. Activations are quantised in one of two ways, convolutions only in the second:

* *dynamic*, for onnxruntime on CPUs: ranges are measured at run time, without calibration images, by one node,
``DynamicQuantizeMatMul``.
* *static*, for OpenVINO and TensorRT: symmetric QuantizeLinear and DequantizeLinear pairs with ranges measured on the
user's images; without zero points, which TensorRT does not accept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from samedge.export.graphs.graph_view import drop_unused_constants, replace_nodes
from samedge.types import FloatArray

SMALLEST_LINEAR: Final = 1 << 16
"""Smaller weights stay float32: there is nothing to gain."""

_CONTRIB: Final = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer of a graph.

    Attributes:
        node: Its Gemm or MatMul.
        activation: Name of its input.
        weight: Name of its weight.
        transposed: The weight is ``[out, in]`` instead of ``[in, out]``.
        bias: Name of its bias; empty for none.
    """

    node: onnx.NodeProto
    activation: str
    weight: str
    transposed: bool
    bias: str

    @property
    def axis(self) -> int:
        """Output axis of the weight."""
        return 0 if self.transposed else 1


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution of a graph.

    Attributes:
        node: Its Conv.
        activation: Name of its input.
        weight: Name of its weight, ``[out, in, height, width]``.
        axis: Output axis of the weight.
    """

    node: onnx.NodeProto
    activation: str
    weight: str
    axis: int = 0


Layer = Linear | Convolution


def convolutions(graph: onnx.GraphProto) -> list[Convolution]:
    """Return the convolutions with constant weights, in order of execution."""
    constants = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return [
        Convolution(node, node.input[0], node.input[1])
        for node in graph.node
        if node.op_type == "Conv" and node.input[1] in constants
    ]


def linears(graph: onnx.GraphProto) -> list[Linear]:
    """Return the linear layers with large constant weights, in order of execution."""
    large = {
        tensor.name
        for tensor in graph.initializer
        if len(tensor.dims) == 2
        and tensor.dims[0] * tensor.dims[1] >= SMALLEST_LINEAR
        and tensor.data_type == TensorProto.FLOAT
    }
    found = []
    for node in graph.node:
        if node.op_type not in ("Gemm", "MatMul") or node.input[1] not in large:
            continue
        values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if values.get("transA", 0) or values.get("alpha", 1.0) != 1.0 or values.get("beta", 1.0) != 1.0:
            continue
        bias = node.input[2] if len(node.input) > 2 else ""
        found.append(Linear(node, node.input[0], node.input[1], bool(values.get("transB", 0)), bias))
    return found


def quantise_columns(weight: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """Return a weight ``[in, out]`` as int8, and its scales float32 ``[out]``."""
    scale = np.abs(weight).max(axis=0).astype(np.float32) / np.float32(127)
    scale[scale == 0] = 1
    quantised: NDArray[np.int8] = np.rint(weight / scale).clip(-127, 127).astype(np.int8)
    return quantised, scale


def quantise_along(weight: FloatArray, axis: int) -> tuple[NDArray[np.int8], FloatArray]:
    """Return a weight as int8, and a float32 scale for each index of an axis."""
    last = np.moveaxis(weight, axis, -1)
    data, scale = quantise_columns(last.reshape(-1, last.shape[-1]))
    return np.ascontiguousarray(np.moveaxis(data.reshape(last.shape), -1, axis)), scale


def quantise_dynamic(model: onnx.ModelProto, choose: Callable[[Linear], bool] = lambda _: True) -> int:
    """Make the chosen linear layers int8 with activation ranges measured at run time, in place; return their number."""
    graph, weights = model.graph, _Weights(model.graph)
    changed = 0
    for linear in linears(graph):
        if not choose(linear):
            continue
        by_column = (lambda weight: quantise_columns(weight.T)) if linear.transposed else quantise_columns
        names = weights.quantised(linear.weight, by_column)
        inputs = [linear.activation, *names, *([linear.bias] if linear.bias else [])]
        new = helper.make_node(
            "DynamicQuantizeMatMul", inputs, list(linear.node.output), name=linear.node.name, domain=_CONTRIB
        )
        linear.node.CopyFrom(new)
        changed += 1
    drop_unused_constants(graph)
    if changed and not any(opset.domain == _CONTRIB for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    return changed


def quantise_static(
    model: onnx.ModelProto, ranges: Mapping[str, float], choose: Callable[[Linear], bool] = lambda _: True
) -> int:
    """Make the chosen linear layers int8 as `quantise_layers`; return their number."""
    return quantise_layers(model, ranges, [linear for linear in linears(model.graph) if choose(linear)])


def quantise_layers(model: onnx.ModelProto, ranges: Mapping[str, float], layers: Sequence[Layer]) -> int:
    """Make layers int8 by Q/DQ pairs with fixed ranges, one per activation, in place; return their number.

    Args:
        model: A float32 graph.
        ranges: For each activation, the magnitude mapped to 127. Layers of other activations stay float32.
        layers: Layers of the graph.
    """
    graph, weights = model.graph, _Weights(model.graph)
    pairs: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    chosen = {layer.node.name: layer for layer in layers if layer.activation in ranges}
    joined = _joined(graph, chosen)
    zero = weights.add("quantised_zero", np.zeros((), np.int8))
    for node in list(graph.node):
        layer = chosen.get(node.name)
        if layer is not None:
            if layer.activation not in pairs:
                step = np.float32(max(ranges[layer.activation], 1e-8) / 127)
                scale_name = weights.add(f"{layer.activation}_scale", np.array(step, np.float32))
                pairs[layer.activation] = f"{layer.activation}_dequantised"
                if layer.activation in joined:
                    _quantise_before(nodes, joined[layer.activation], scale_name, zero)
                    nodes.append(_dequantise(layer.activation, scale_name, zero))
                else:
                    nodes += _pair(layer.activation, scale_name, zero)
            names = weights.quantised(layer.weight, partial(quantise_along, axis=layer.axis))
            weight = f"{layer.node.name}_weight"  # not the weight's name, which several layers may share
            nodes.append(helper.make_node("DequantizeLinear", names, [weight], name=weight, axis=layer.axis))
            node.input[0], node.input[1] = pairs[layer.activation], weight
        nodes.append(node)
    replace_nodes(graph, nodes)
    drop_unused_constants(graph)
    return len(chosen)


def _pair(name: str, scale: str, zero: str) -> list[onnx.NodeProto]:
    return [_quantise(name, f"{name}_quantised", scale, zero), _dequantise(name, scale, zero)]


def _quantise(name: str, output: str, scale: str, zero: str) -> onnx.NodeProto:
    return helper.make_node("QuantizeLinear", [name, scale, zero], [output], name=output)


def _dequantise(name: str, scale: str, zero: str) -> onnx.NodeProto:
    output = f"{name}_dequantised"
    return helper.make_node("DequantizeLinear", [f"{name}_quantised", scale, zero], [output], name=output)


def _joined(graph: onnx.GraphProto, chosen: Mapping[str, Layer]) -> dict[str, onnx.NodeProto]:
    """Return the concatenations read only by quantised layers, by output."""
    others = {name for node in graph.node if node.name not in chosen for name in node.input}
    others |= {value.name for value in graph.output}
    return {node.output[0]: node for node in graph.node if node.op_type == "Concat" and node.output[0] not in others}


def _quantise_before(nodes: list[onnx.NodeProto], concat: onnx.NodeProto, scale: str, zero: str) -> None:
    """Quantise the inputs of a concatenation instead of its output: the same numbers.

    OpenVINO (2026.4) itself moves a quantisation over a concatenation, and loses the scale.
    """
    name = concat.output[0]
    inputs = [f"{name}_{number}_quantised" for number in range(len(concat.input))]
    at = next(index for index, node in enumerate(nodes) if node.output[0] == name)
    before = [_quantise(each, output, scale, zero) for each, output in zip(concat.input, inputs, strict=True)]
    joined = onnx.NodeProto()
    joined.CopyFrom(concat)
    joined.input[:], joined.output[:] = inputs, [f"{name}_quantised"]
    nodes[at : at + 1] = [*before, joined]


class _Weights:
    """Initializers of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}

    def quantised(
        self, name: str, quantise: Callable[[FloatArray], tuple[NDArray[np.int8], FloatArray]]
    ) -> tuple[str, str, str]:
        """Return the names of a weight's int8 numbers, scales and zero points, which are added once."""
        names = (f"{name}_int8", f"{name}_scale", f"{name}_zero")
        if names[0] not in self._tensors:
            values: FloatArray = numpy_helper.to_array(self._tensors[name])
            data, scale = quantise(values)
            # Zero points are all 0, but without them the dynamic kernel would take the weights for unsigned.
            arrays: tuple[NDArray[Any], ...] = (data, scale, np.zeros(len(scale), np.int8))
            for each, array in zip(names, arrays, strict=True):
                self.add(each, array)
        return names

    def add(self, name: str, array: NDArray[np.generic]) -> str:
        """Add an initializer, unless it exists."""
        if name not in self._tensors:
            self._graph.initializer.append(numpy_helper.from_array(array, name))
            self._tensors[name] = self._graph.initializer[-1]
        return name
