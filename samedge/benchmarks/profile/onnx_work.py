"""Work of each node of an ONNX file: operations, bytes and kind, from shapes alone. Weights are not read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

from samedge.benchmarks.measure.child import EXTRA
from samedge.benchmarks.profile.graph_work import ComputePrecision, GraphWork, NodeWork
from samedge.benchmarks.profile.operators import INTEGER, PRODUCTS, kind_of_operator, operations, second_factor
from samedge.errors import EngineError, missing_extra
from samedge.storage.files import storage_errors

_LARGEST_VALUES: Final = 1024
"""Larger initializers are weights; smaller ones may be shapes, which shape inference needs."""
_BRIDGES: Final = frozenset(
    {"Add", "Sub", "Mul", "Div", "Where", "Reshape", "Transpose", "Cast", "Squeeze", "Unsqueeze", "Expand"}
)
"""Operators that may lie between the product of an attention and its softmax."""
_LIKE: Final = {"DynamicQuantizeMatMul": ("MatMul", 2), "Gelu": ("Relu", 1), "FastGelu": ("Relu", 1)}
"""Operators of onnxruntime unknown to ONNX's shape inference: an equivalent one, and its number of inputs."""


def read_graph_work(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> GraphWork:
    """Return the work of the nodes of an ONNX file (external data is not read), for input shapes by name."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise missing_extra("onnx", EXTRA, "Counting a graph's operations") from error
    with storage_errors(path, "read"):
        data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf raises several types
        raise EngineError(f"not an ONNX file: {error}", where=path.name, cure="Give an ONNX graph") from error
    del data
    weights = {tensor.name: (tuple(tensor.dims), tensor.data_type) for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    _name(nodes)
    _forget_weights(model)
    try:
        inferred = _inferred(onnx, model, shapes)
    except (onnx.shape_inference.InferenceError, ValueError, TypeError) as error:
        cure = "Give sizes that the graph accepts, such as --batch 1"
        raise EngineError(f"shape inference failed: {error}", where=path.name, cure=cure) from error
    tensors = {**inferred, **weights}
    sizes = {
        name: prod(shape) * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
        for name, (shape, kind) in tensors.items()
    }
    half = {name for name, (_, kind) in tensors.items() if kind == onnx.TensorProto.FLOAT16}
    attention = _attention_nodes(nodes, weights.keys())
    integers = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
    return GraphWork(
        (_node_work(onnx, node, tensors, half, integers, attention) for node in nodes),
        sizes,
        (output.name for output in model.graph.output),
    )


def _name(nodes: list[Any]) -> None:
    names: set[str] = set()
    for at, node in enumerate(nodes):
        if not node.name or node.name in names:
            node.name = f"{node.op_type}#{at}"
        names.add(node.name)


def _forget_weights(model: Any) -> None:
    """Drop the values of weights, which are not needed, before the model is copied."""
    for tensor in model.graph.initializer:
        if prod(tensor.dims) > _LARGEST_VALUES:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
                tensor.ClearField(field)


def _inferred(onnx: Any, model: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return the known shapes and types of inputs, outputs and intermediate tensors."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for node in light.graph.node:
        if node.op_type in _LIKE and node.domain:
            kind, count = _LIKE[node.op_type]
            node.op_type, node.domain = kind, ""
            del node.input[count:]
            del node.attribute[:]
            for weight in light.graph.initializer:
                if weight.name in node.input:
                    weight.data_type = onnx.TensorProto.FLOAT
    for value in light.graph.input:
        for axis, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            axis.dim_value = size
    for value in light.graph.output:
        value.type.tensor_type.ClearField("shape")
    del light.graph.value_info[:]
    light = onnx.shape_inference.infer_shapes(light, data_prop=True)
    known: dict[str, tuple[tuple[int, ...], int]] = {}
    for value in (*light.graph.input, *light.graph.value_info, *light.graph.output):
        tensor = value.type.tensor_type
        axes = tensor.shape.dim
        if tensor.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
            known[value.name] = (tuple(axis.dim_value for axis in axes), tensor.elem_type)
    return known


def _node_work(
    onnx: Any,
    node: Any,
    tensors: Mapping[str, tuple[tuple[int, ...], int]],
    half: set[str],
    integers: set[str],
    attention: set[str],
) -> NodeWork:
    """Return the work of a node.

    `integers` are outputs of DequantizeLinear: backends compute a product of two of them in integers.
    """
    known = [tensors[name][0] if name in tensors else None for name in node.input]
    output = tensors[node.output[0]][0] if node.output and node.output[0] in tensors else ()
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    attributes = {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()}
    flops = operations(node.op_type, known, output, attributes) if output else 0
    precision: ComputePrecision = "fp32"
    if node.op_type in INTEGER or (flops and {node.input[0], node.input[1]} <= integers):
        precision = "int8"
    elif node.input and node.input[0] in half:
        precision = "fp16"
    kind = "attention" if node.name in attention else kind_of_operator(node.op_type)
    return NodeWork(
        node.name,
        node.op_type,
        kind,
        flops,
        precision,
        tuple(name for name in node.input if name),
        tuple(name for name in node.output if name),
    )


def _attention_nodes(nodes: list[Any], weights: Iterable[str]) -> set[str]:
    """Return the nodes of attentions: products of two activations, softmax, and the arithmetic that leads to it.

    A softmax without a product before or after it, as in a detector's head, is an ordinary activation.
    """
    constant = _constants(nodes, weights)
    maker = {output: node for node in nodes for output in node.output}

    def of_activations(node: Any) -> bool:
        return node.op_type == "Attention" or not {node.input[0], node.input[second_factor(node.op_type)]} & constant

    names = {node.name for node in nodes if node.op_type in PRODUCTS and of_activations(node)}
    weighted = {tensor for node in nodes if node.name in names for tensor in node.input}
    for node in nodes:
        if node.op_type == "Softmax":
            arithmetic, products = _leading_to(node, maker)
            if products or weighted.intersection(node.output):
                names |= {node.name, *arithmetic, *products}
    return names


def _leading_to(node: Any, maker: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Return the arithmetic between products and the input of a node, and those products."""
    arithmetic: set[str] = set()
    products: set[str] = set()
    waiting, seen = [node.input[0]], set[str]()
    while waiting:
        before = maker.get(waiting.pop())
        if before is None or before.name in seen:
            continue
        seen.add(before.name)
        if before.op_type in _BRIDGES:
            waiting += before.input
            if kind_of_operator(before.op_type) == "elementwise":
                arithmetic.add(before.name)
        elif before.op_type in PRODUCTS:
            products.add(before.name)
    return arithmetic, products


def _constants(nodes: list[Any], weights: Iterable[str]) -> set[str]:
    """Return the tensors that do not depend on an input: weights, and tensors computed from them alone."""
    constant = {*weights}
    for node in nodes:  # in the order of the graph
        if node.op_type == "Constant" or (node.input and all(not name or name in constant for name in node.input)):
            constant.update(node.output)
    return constant
