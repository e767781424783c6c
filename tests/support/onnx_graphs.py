"""Small ONNX graphs for tests, written as a list of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Node = tuple[Any, ...]
"""Operator, inputs, outputs, and perhaps attributes; a name is made from the operator and the first output."""


def write_onnx(
    path: Path,
    nodes: Sequence[Node],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    weights: Mapping[str, NDArray[Any]] | None = None,
    *,
    opset: int = 17,
) -> Path:
    """Writes a graph of float32 inputs and outputs; operators "com.microsoft:Name" are of that domain."""
    made = []
    for operator, sources, results, *attributes in nodes:
        domain, _, kind = operator.rpartition(":")
        name = f"/{kind}_{results[0]}"
        made.append(
            helper.make_node(kind, sources, results, name=name, domain=domain, **(attributes[0] if attributes else {}))
        )
    graph = helper.make_graph(
        made,
        "small",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def zeros(*shape: int) -> NDArray[np.float32]:
    """Returns weights."""
    return np.zeros(shape, np.float32)
