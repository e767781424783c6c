"""Conversion of a torch module to a clean ONNX model: trace, fold, simplify.

The tracer writes every shape as a computation. Folding leaves only what depends on inputs: no Identity, no Constant,
and no shape arithmetic beyond what free axes need. Weights are taken out first and put back afterwards, so that
simplifying ViT-H takes no more memory than simplifying a small model.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Final

import onnx
import onnxslim
import torch
from onnx import TensorProto, helper

from samedge.errors import ExportError
from samedge.export.graphs.plans import GraphPlan

WEIGHT_BYTES: Final = 1 << 16
"""Larger initializers are weights, kept from the simplifier; smaller ones may be folded."""

_ELEMENT_BYTES: Final = {TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.INT64: 8, TensorProto.INT32: 4}


def trace(plan: GraphPlan, opset: int) -> onnx.ModelProto:
    """Return the plan's graph as an ONNX model with its weights.

    Raises:
        ExportError: The module cannot be traced at this opset.
    """
    module = plan.module.eval().requires_grad_(False)  # otherwise the trace would keep every activation
    with tempfile.TemporaryDirectory(prefix="samedge-trace-") as folder:
        path = Path(folder) / "graph.onnx"
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the tracer's, about itself and constant sizes
                torch.onnx.export(
                    module,
                    plan.example,
                    str(path),
                    dynamo=False,
                    opset_version=opset,
                    input_names=list(plan.inputs),
                    output_names=list(plan.outputs),
                    dynamic_axes=plan.dynamic_axes,
                )
        except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            raise ExportError(
                f"torch cannot write the {plan.role} at opset {opset}: {str(error).splitlines()[0]}",
                cure="Try --opset 17, and report this with your torch version",
            ) from error
        model = onnx.load(str(path))
    model = simplify(model)
    for value in model.graph.output:
        if value.name in plan.output_shapes:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, plan.output_shapes[value.name]))
    return model


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants, drop no-ops, and replace shape arithmetic that only copies axes."""
    weights = _take_weights(model)
    model = onnxslim.slim(model)
    if _copy_axes_in_reshapes(model.graph):
        model = onnxslim.slim(model)
    _put_weights(model, weights)
    _separate_biases(model.graph)
    return model


def _take_weights(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Turn large initializers into inputs and return them by name."""
    graph = model.graph
    weights, kept = {}, []
    for tensor in graph.initializer:
        if math.prod(tensor.dims) * _ELEMENT_BYTES.get(tensor.data_type, 8) >= WEIGHT_BYTES:
            weights[tensor.name] = tensor
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            kept.append(tensor)
    # Protobuf frees nothing that a view still holds: copy everything once, then clear.
    held = {name: TensorProto.FromString(tensor.SerializeToString()) for name, tensor in weights.items()}
    small = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(small)
    return held


def _put_weights(model: onnx.ModelProto, weights: dict[str, TensorProto]) -> None:
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    while weights:
        name, tensor = weights.popitem()
        if name in used:
            graph.initializer.append(tensor)


def _separate_biases(graph: onnx.GraphProto) -> None:
    """Give each convolution its own bias where several share one, like strips of a map.

    OpenVINO fuses a convolution with its bias and with what follows only if nothing else reads the bias, but the tracer
    merges equal weights. Biases are small; kernels stay shared.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        if node.op_type != "Conv" or len(node.input) < 3 or node.input[2] not in constants:
            continue
        name = node.input[2]
        readers[name] -= 1
        if readers[name]:
            own = TensorProto.FromString(constants[name].SerializeToString())
            own.name = node.input[2] = f"{name}.{readers[name]}"
            graph.initializer.append(own)


def _copy_axes_in_reshapes(graph: onnx.GraphProto) -> bool:
    """Replace ``Reshape(x, [shape(x)[0], -1, a, b])`` by ``Reshape(x, [0, -1, a, b])``; return whether any was found.

    A 0 in a Reshape's target copies the axis of the input, which is what the traced arithmetic computes.
    """
    producer = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    changed = False
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        concat = producer.get(node.input[1])
        if concat is None or concat.op_type != "Concat":
            continue
        target: list[int] = []
        for axis, name in enumerate(concat.input):
            size = _axis_size(name, axis, node.input[0], producer, constants)
            if size is None:
                break
            target.extend(size)
        else:
            name = f"{node.name}_target"
            graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(target)], target))
            node.input[1] = name
            changed = True
    return changed


def _axis_size(
    name: str, axis: int, data: str, producer: dict[str, onnx.NodeProto], constants: dict[str, TensorProto]
) -> list[int] | None:
    """Return the sizes in one part of a reshape target: constants, or 0 for a copied axis; None for others."""
    if name in constants:
        return [int(value) for value in onnx.numpy_helper.to_array(constants[name]).reshape(-1)]
    chain = []
    for kind in ("Unsqueeze", "Gather", "Shape"):
        node = producer.get(name)
        if node is None or node.op_type != kind:
            return None
        chain.append(node)
        name = node.input[0]
    index = constants.get(chain[1].input[1])
    if name != data or index is None or int(onnx.numpy_helper.to_array(index)) != axis:
        return None
    return [0]
