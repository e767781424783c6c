"""Cost and kind of operators: operations from shapes, and kinds of work from names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final, Literal, TypeAlias, get_args

Kind: TypeAlias = Literal[
    "attention",
    "linear",
    "convolution",
    "normalisation",
    "activation",
    "elementwise",
    "copies",
    "quantisation",
    "other",
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""Attention covers products of two activations, softmax, and the arithmetic between; linear covers products with
weights, in MLPs and projections; copies move values without computing."""

Shape: TypeAlias = "Sequence[int]"

PRODUCTS: Final = frozenset(
    {
        "MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat", "QGemm", "Einsum", "Attention",
    }
)  # fmt: skip
CONVOLUTIONS: Final = frozenset({"Conv", "FusedConv", "ConvInteger", "QLinearConv", "ConvTranspose"})
INTEGER: Final = frozenset(
    {
        "MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "ConvInteger",
        "QLinearConv",
    }
)  # fmt: skip
"""Operators that always compute in int8."""

_SECOND: Final = {"QLinearMatMul": 3, "QLinearConv": 3, "QGemm": 3}
"""Index of the second factor among the inputs; 1 for all other operators."""

_OF_OPERATOR: Final[dict[str, Kind]] = {
    **dict.fromkeys(PRODUCTS, "linear"),
    **dict.fromkeys(CONVOLUTIONS, "convolution"),
    **dict.fromkeys(("Attention", "MultiHeadAttention"), "attention"),
    **dict.fromkeys(
        (
            "LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "GroupNormalization",
            "BatchNormalization", "InstanceNormalization", "MVN",
        ),
        "normalisation",
    ),
    **dict.fromkeys(
        ("Relu", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Erf", "Sigmoid", "HardSwish", "Tanh", "Silu", "Clip",
         "Softmax"),
        "activation",
    ),
    **dict.fromkeys(
        (
            "Transpose", "Reshape", "Gather", "GatherElements", "GatherND", "Slice", "Split", "Concat", "Pad", "Expand",
            "Squeeze", "Unsqueeze", "Flatten", "Identity", "Tile", "Cast", "Shape", "Constant", "ConstantOfShape",
            "Where", "ReorderInput", "ReorderOutput", "DepthToSpace", "SpaceToDepth", "ScatterND", "Resize",
        ),
        "copies",
    ),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"), "quantisation"),
    **dict.fromkeys(
        (
            "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Sin", "Cos", "Neg", "Abs", "Not", "Equal", "Greater",
            "Less", "And", "Or", "Min", "Max", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin",
            "MaxPool", "Reciprocal",
        ),
        "elementwise",
    ),
}  # fmt: skip

_WORDS: Final[tuple[tuple[Kind, tuple[str, ...]], ...]] = (
    ("attention", ("attention", "mha", "scaleddotproduct")),
    ("normalisation", ("norm", "mvn")),
    ("quantisation", ("quantize",)),
    (
        "copies",
        ("reformat", "copynode", "reorder", "transpose", "reshape", "shuffle", "convert", "concat", "split", "slice"),
    ),
    ("copies", ("gather", "pad", "squeeze", "copy", "constant", "noop")),
    ("convolution", ("conv",)),
    ("linear", ("matmul", "matrixmultiply", "fullyconnected", "gemm", "fc")),
    ("activation", ("softmax", "gelu", "relu", "sigmoid", "erf", "swish", "tanh")),
    (
        "elementwise",
        ("subgraph", "eltwise", "elementwise", "pointwise", "add", "mul", "sub", "div", "pow", "sqrt", "reduce"),
    ),
)
"""Kinds of backends' own layers by words in their names; the first match counts."""


def kind_of_operator(operator: str) -> Kind:
    """Return the kind of an operator of ONNX or onnxruntime, or of another backend's layer type."""
    known = _OF_OPERATOR.get(operator)
    if known is not None:
        return known
    name = operator.lower()
    return next((kind for kind, words in _WORDS if any(word in name for word in words)), "other")


def second_factor(operator: str) -> int:
    """Return the input index of the second factor, or weights, of a product or convolution."""
    return _SECOND.get(operator, 1)


def operations(operator: str, inputs: Sequence[Shape | None], output: Shape, attributes: Mapping[str, Any]) -> int:
    """Return the floating point operations of a product or convolution, 2 per multiply-add; 0 for other operators.

    An input shape is None if it is missing or unknown; `output` is that of the first output.
    """
    first = inputs[0] if inputs else None
    if first is None or operator not in PRODUCTS | CONVOLUTIONS:
        return 0
    second = inputs[second_factor(operator)] if len(inputs) > second_factor(operator) else None
    if operator == "Einsum":
        return _einsum(str(attributes.get("equation", "")), [shape for shape in inputs if shape is not None])
    if operator == "Attention":
        return _attention(first, inputs)
    if operator == "ConvTranspose":
        return 0 if second is None else 2 * prod(first) * prod(second[1:])
    if operator in CONVOLUTIONS:
        return 0 if second is None else 2 * prod(output) * prod(second[1:])
    transposed = operator in ("Gemm", "FusedGemm", "QGemm", "FusedMatMul") and attributes.get("transA")
    return 2 * prod(output) * first[-2 if transposed else -1]


def _einsum(equation: str, shapes: Sequence[Shape]) -> int:
    """Count a multiply-add for each combination of all indices of two factors."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(terms) != 2 or len(shapes) != 2 or any("." in term for term in terms):
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        sizes.update(zip(term, shape, strict=False))
    return 2 * prod(sizes.values())


def _attention(query: Shape, inputs: Sequence[Shape | None]) -> int:
    """Count the two products of ONNX's operator on ``[B, H, S, d]``."""
    key, value = (inputs[at] if len(inputs) > at else None for at in (1, 2))
    if len(query) != 4 or key is None or value is None:
        return 0
    return 2 * prod(query[:3]) * key[2] * (query[3] + value[3])
