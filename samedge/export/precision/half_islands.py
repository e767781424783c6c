"""Selection of the nodes that stay float32 when a graph becomes float16.

Nodes are found by what they compute, not by name, so that this works for every model. On every rung these stay float32:

* *coordinates*: whatever leads to a sine, a cosine or an index, or is computed from sizes alone. float16 resolves
pixels up to 2048 and half pixels up to 1024;
* *norms written out*: means of squares overflow for magnitudes above 256, and an epsilon of 1e-6 nearly vanishes;
* *ends*: arithmetic between an input and the first product, and between the last product and an output. Inputs and
outputs are float32, so this costs nothing, and boxes stay exact;
* *scales*: QuantizeLinear and DequantizeLinear before opset 19, which lack float16;
* *out of range*: nodes with a scalar outside float16's range;
* operators not known to be safe.

Lower rungs add norms and softmax, then the products of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import numpy as np
from onnx import TensorProto

from samedge.export.graphs.graph_view import GraphView, attributes_of

HALF_MAX: Final = 65504.0
HALF_TINY: Final = 2.0**-14
"""Largest and smallest normal float16."""

MOVES: Final = frozenset(
    (
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad",
        "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
    )
)  # fmt: skip
"""Operators that move numbers without computing any, in whatever type these have."""

PRODUCTS: Final = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
_MEANS: Final = frozenset(("ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare"))
_EXTREMES: Final = frozenset(("ReduceMax", "ReduceMin"))
_POINTWISE: Final = frozenset(
    (
        "Abs", "Add", "Ceil", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
        "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Round",
        "Sigmoid", "Sin", "Softplus", "Sqrt", "Sub", "Tanh",
    )
)  # fmt: skip
_POOLS: Final = frozenset(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Resize", "Upsample"))
_NORMS: Final = frozenset(
    ("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization")
)
_SOFTMAX: Final = frozenset(("Softmax", "LogSoftmax"))
_QUANTISERS: Final = frozenset(("QuantizeLinear", "DequantizeLinear"))
_HALF_SCALES_FROM: Final = 19
"""First opset in which they accept float16."""

_SAFE: Final = PRODUCTS | _MEANS | _EXTREMES | _POINTWISE | _POOLS | _NORMS | _SOFTMAX
_INDEXING: Final = frozenset(("ArgMax", "ArgMin", "Cos", "CumSum", "NonZero", "OneHot", "Range", "Sin", "TopK"))
_ARITHMETIC: Final = _POINTWISE | _MEANS | _EXTREMES | _SOFTMAX | _POOLS

_SMALL_WEIGHT: Final = 1024
"""A product with fewer weights is not a layer but arithmetic: frequencies of positions, or an expectation over bins."""


def islands(view: GraphView, rung: str) -> dict[int, str]:
    """Return the nodes of a float32 graph that stay float32 on a rung (not the last), with the reasons."""
    single: dict[int, str] = {}

    def keep(nodes: Iterable[int], why: str) -> None:
        for index in nodes:
            if view.nodes[index].op_type not in MOVES:
                single.setdefault(index, why)

    if view.opset < _HALF_SCALES_FROM:
        keep((index for index, node in enumerate(view.nodes) if node.op_type in _QUANTISERS), "scales")
    keep(_unknown(view), "unknown operators")
    keep(_coordinates(view), "coordinates")
    keep(_written_norms(view), "norms written out")
    keep(_ends(view), "ends")
    keep(_out_of_range(view), "out of range")
    if rung != "fp16":
        keep((index for index, node in enumerate(view.nodes) if node.op_type in _NORMS), "norms")
        keep(_softmax(view), "softmax")
    if rung == "fp16-attention":
        keep(_attention(view), "attention")
    return single


def is_layer(view: GraphView, index: int) -> bool:
    """Return True for a product that is a layer of the model, not mere arithmetic."""
    if view.nodes[index].op_type not in PRODUCTS:
        return False
    weight = view.largest_weight(index)
    return weight == 0 or weight >= _SMALL_WEIGHT


def _is_arithmetic(view: GraphView, index: int) -> bool:
    kind = view.nodes[index].op_type
    return kind in _ARITHMETIC or kind in MOVES or (kind in PRODUCTS and not is_layer(view, index))


def _walk(start: Iterable[int], step: Callable[[int], Iterable[int]], through: Callable[[int], bool]) -> set[int]:
    """Return the nodes reached by steps through nodes of a kind, without the start."""
    found: set[int] = set()
    waiting = [following for index in start for following in step(index)]
    while waiting:
        index = waiting.pop()
        if index in found or not through(index):
            continue
        found.add(index)
        waiting.extend(step(index))
    return found


def _unknown(view: GraphView) -> list[int]:
    def safe(index: int) -> bool:
        kind = view.nodes[index].op_type
        if view.nodes[index].domain not in ("", "ai.onnx"):
            return False
        return kind in _SAFE or kind in MOVES or kind in _QUANTISERS or kind in ("Cast", "Shape", "Size")

    return [index for index in range(len(view.nodes)) if not safe(index)]


def _coordinates(view: GraphView) -> set[int]:
    """Return nodes that compute positions (sines, cosines, indices), and those that depend only on sizes."""

    def indexes(index: int) -> bool:
        node = view.nodes[index]
        to_integer = node.op_type == "Cast" and attributes_of(node)["to"] in (TensorProto.INT32, TensorProto.INT64)
        return node.op_type in _INDEXING or (to_integer and view.is_float(node.input[0]))

    places = [index for index in range(len(view.nodes)) if indexes(index)]
    found = set(places) | _walk(places, view.before, partial(_is_arithmetic, view))
    return found | _of_sizes(view)


def _of_sizes(view: GraphView) -> set[int]:
    """Return nodes that depend only on sizes and constants, not on data."""
    found: set[int] = set()
    from_sizes: set[str] = set()
    from_data = set(view.inputs)
    for index, node in enumerate(view.nodes):
        if node.op_type in ("Shape", "Size"):
            from_sizes.update(node.output)
        elif any(name in from_data for name in node.input):
            from_data.update(node.output)
        elif any(name in from_sizes for name in node.input):
            from_sizes.update(node.output)
            if node.op_type not in MOVES and any(view.is_float(name) for name in node.output):
                found.add(index)
    return found


def _written_norms(view: GraphView) -> set[int]:
    """Return the nodes of norms that are written out: mean, difference, square, mean, epsilon, root, quotient."""

    def statistic(index: int) -> bool:
        return view.nodes[index].op_type in _POINTWISE | _MEANS

    found: set[int] = set()
    for root, node in enumerate(view.nodes):
        if node.op_type != "Sqrt":
            continue
        above = _walk([root], view.before, statistic)
        means = [index for index in above if view.nodes[index].op_type in _MEANS]
        if means:
            below = _walk(means, view.after, above.__contains__)
            quotients = [index for index in view.after(root) if view.nodes[index].op_type in ("Div", "Reciprocal")]
            found |= {root, *means, *below, *quotients}
    return found


def _ends(view: GraphView) -> set[int]:
    """Return arithmetic between inputs and the first layers, and between the last ones and outputs."""
    passable = partial(_is_arithmetic, view)
    last = [index for name in view.outputs if (index := view.producer(name)) is not None and view.is_float(name)]
    found = {index for index in last if passable(index)}
    found |= _walk(found, view.before, passable)
    first = {name for name in view.inputs if view.is_float(name)}
    for index, node in enumerate(view.nodes):
        taken = view.floats_in(index)
        if taken and passable(index) and first.issuperset(taken):
            found.add(index)
            first.update(node.output)
    return found


def _out_of_range(view: GraphView) -> list[int]:
    """Return nodes with a scalar outside float16's range, unless it only bounds what is moved or clipped."""

    def unrepresentable(name: str) -> bool:
        if name not in view.constants or not view.is_float(name) or len(view.constants[name].dims) > 1:
            return False
        values = view.constant(name)
        if values is None or values.size != 1:
            return False
        magnitude = float(np.abs(values).reshape(-1)[0])
        return bool(np.isfinite(magnitude)) and (magnitude > HALF_MAX or 0 < magnitude < HALF_TINY)

    bounded = MOVES | {"Clip", "Max", "Min"}
    return [
        index
        for index, node in enumerate(view.nodes)
        if node.op_type not in bounded | _QUANTISERS and any(unrepresentable(name) for name in node.input)
    ]


def _softmax(view: GraphView) -> set[int]:
    """Return softmax nodes, and the four nodes of each that is written out."""
    found = {index for index, node in enumerate(view.nodes) if node.op_type in _SOFTMAX}
    for power, node in enumerate(view.nodes):
        if node.op_type != "Exp":
            continue
        sums = [index for index in view.after(power) if view.nodes[index].op_type == "ReduceSum"]
        if sums:
            quotients = {index for index in view.after(power) if view.nodes[index].op_type == "Div"}
            raised = [index for index in view.before(power) if view.nodes[index].op_type == "Sub"]
            extremes = [i for index in raised for i in view.before(index) if view.nodes[i].op_type in _EXTREMES]
            found |= {power, *sums, *quotients, *raised, *extremes}
    return found


def _attention(view: GraphView) -> set[int]:
    """Return nodes from queries and keys to the softmax, and on to the product with the values."""

    def is_linear(index: int) -> bool:
        node = view.nodes[index]
        flat = any(name in view.constants and len(view.constants[name].dims) == 2 for name in node.input)
        return node.op_type in ("Conv", "ConvTranspose", "Gemm") or (node.op_type == "MatMul" and flat)

    def to_logits(index: int) -> bool:
        kind = view.nodes[index].op_type
        return kind in _POINTWISE or kind in MOVES or (kind == "MatMul" and not is_linear(index))

    found: set[int] = set()
    weights = _softmax(view)
    for index in weights:
        moved = _walk([index], view.after, lambda i: view.nodes[i].op_type in MOVES)
        mixed = [i for start in (index, *moved) for i in view.after(start) if view.nodes[i].op_type == "MatMul"]
        if mixed:  # otherwise it is not attention
            found |= {index, *mixed} | _walk([index], view.before, lambda i: i in weights or to_logits(i))
    return found
