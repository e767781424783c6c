"""int8 linear layers, written into the graph: one file means one thing on every backend.

Two ways, both with symmetric int8 weights, one scale a column, and float32 everywhere else (attention products, norms,
softmax, convolutions):

* *dynamic*, for onnxruntime on processors: the activations' range is measured as the graph runs, so no images are
  needed. One node, ``DynamicQuantizeMatMul``, does all of it.
* *static*, for OpenVINO and TensorRT: symmetric QuantizeLinear and DequantizeLinear pairs with ranges measured on the
  user's images. TensorRT takes no zero points, which is why none are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from samedge.types import FloatArray

SMALLEST_LINEAR: Final = 1 << 16
"""Weights of fewer numbers stay as they are: there is nothing to win."""

_CONTRIB: Final = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer of a graph.

    Attributes:
        node: Its Gemm or MatMul.
        activation: Name of what it is applied to.
        weight: Name of its weight.
        transposed: The weight is ``[out, in]`` instead of ``[in, out]``.
        bias: Name of its bias; empty for none.
    """

    node: onnx.NodeProto
    activation: str
    weight: str
    transposed: bool
    bias: str


def linears(graph: onnx.GraphProto) -> list[Linear]:
    """Returns the linear layers whose weights are large constants, in the order in which they run."""
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
    """Returns a weight ``[in, out]`` as int8 with one scale a column, float32 ``[out]``."""
    scale = np.abs(weight).max(axis=0).astype(np.float32) / np.float32(127)
    scale[scale == 0] = 1
    quantised: NDArray[np.int8] = np.rint(weight / scale).clip(-127, 127).astype(np.int8)
    return quantised, scale


def quantise_dynamic(model: onnx.ModelProto, choose: Callable[[Linear], bool] = lambda _: True) -> int:
    """Makes linear layers int8 with activations whose range is measured at run time; changes the model.

    Args:
        model: A float32 graph.
        choose: Which layers; the others stay float32.

    Returns:
        How many were changed.
    """
    graph, weights = model.graph, _Weights(model.graph)
    changed = 0
    for linear in linears(graph):
        if not choose(linear):
            continue
        data, scale = weights.quantised(linear, as_columns=True)
        # One zero point a column, all 0: left out, the kernel would take the weights for unsigned.
        zeros = weights.add(f"{linear.weight}_zero", np.zeros(len(scale), np.int8))
        inputs = [linear.activation, weights.add(f"{linear.weight}_int8", data)]
        inputs += [weights.add(f"{linear.weight}_scale", scale), zeros, *([linear.bias] if linear.bias else [])]
        new = helper.make_node(
            "DynamicQuantizeMatMul", inputs, list(linear.node.output), name=linear.node.name, domain=_CONTRIB
        )
        linear.node.CopyFrom(new)
        changed += 1
    weights.drop_unused()
    if changed and not any(opset.domain == _CONTRIB for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    return changed


def quantise_static(
    model: onnx.ModelProto, ranges: Mapping[str, float], choose: Callable[[Linear], bool] = lambda _: True
) -> int:
    """Makes linear layers int8 by Q/DQ pairs with fixed ranges; changes the model.

    Args:
        model: A float32 graph.
        ranges: For each activation, the magnitude that is mapped to 127.
        choose: Which layers; the others stay float32.

    Returns:
        How many were changed.
    """
    graph, weights = model.graph, _Weights(model.graph)
    pairs: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    chosen = {linear.node.name: linear for linear in linears(graph) if choose(linear) and linear.activation in ranges}
    zero = weights.add("quantised_zero", np.zeros((), np.int8))
    for node in list(graph.node):
        linear = chosen.get(node.name)
        if linear is not None:
            if linear.activation not in pairs:
                step = np.float32(max(ranges[linear.activation], 1e-8) / 127)
                scale_name = weights.add(f"{linear.activation}_scale", np.array(step, np.float32))
                pairs[linear.activation] = f"{linear.activation}_dequantised"
                nodes += _pair(linear.activation, scale_name, zero, pairs[linear.activation])
            data, scale = weights.quantised(linear, as_columns=not linear.transposed)
            weight = f"{linear.weight}_dequantised"
            weight_inputs = [
                weights.add(f"{linear.weight}_int8", data),
                weights.add(f"{linear.weight}_scale", scale),
                weights.add(f"{linear.weight}_zero", np.zeros(len(scale), np.int8)),
            ]
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", weight_inputs, [weight], name=weight, axis=0 if linear.transposed else 1
                )
            )
            node.input[0], node.input[1] = pairs[linear.activation], weight
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    weights.drop_unused()
    return len(chosen)


def _pair(name: str, scale: str, zero: str, output: str) -> list[onnx.NodeProto]:
    quantised = f"{name}_quantised"
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [quantised], name=quantised),
        helper.make_node("DequantizeLinear", [quantised, scale, zero], [output], name=output),
    ]


class _Weights:
    """The initializers of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}

    def quantised(self, linear: Linear, *, as_columns: bool) -> tuple[NDArray[np.int8], FloatArray]:
        """Returns a layer's weight in int8, ``[in, out]`` or as it lies, and its scales."""
        weight: FloatArray = numpy_helper.to_array(self._tensors[linear.weight])
        data, scale = quantise_columns(weight.T if linear.transposed else weight)
        if not as_columns:
            data = data.T
        return np.ascontiguousarray(data), scale

    def add(self, name: str, array: NDArray[np.generic]) -> str:
        """Adds an initializer, once."""
        if name not in self._tensors:
            self._graph.initializer.append(numpy_helper.from_array(array, name))
            self._tensors[name] = self._graph.initializer[-1]
        return name

    def drop_unused(self) -> None:
        """Takes away initializers that no node uses."""
        used = {name for node in self._graph.node for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del self._graph.initializer[:]
        self._graph.initializer.extend(copies)
