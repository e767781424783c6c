"""Operations by hand, and kinds."""

from __future__ import annotations

from typing import Any

import pytest

from samedge.benchmarks.profile.operators import KINDS, Kind, kind_of_operator, operations

MATMUL = 2 * 5 * 7 * 3


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "attributes", "expected"),
    [
        ("MatMul", [(5, 3), (3, 7)], (5, 7), {}, MATMUL),
        ("MatMul", [(4, 2, 5, 3), (3, 7)], (4, 2, 5, 7), {}, 8 * MATMUL),
        ("MatMul", [(4, 1, 5, 3), (2, 3, 7)], (4, 2, 5, 7), {}, 8 * MATMUL),
        ("MatMul", [(3,), (3, 7)], (7,), {}, 2 * 7 * 3),
        ("Gemm", [(5, 3), (3, 7), (7,)], (5, 7), {}, MATMUL),
        ("Gemm", [(3, 5), (7, 3)], (5, 7), {"transA": 1, "transB": 1}, MATMUL),
        ("FusedMatMul", [(2, 3, 5), (2, 3, 7)], (2, 5, 7), {"transA": 1}, 2 * MATMUL),
        ("MatMulInteger", [(5, 3), (3, 7), None, None], (5, 7), {}, MATMUL),
        ("QLinearMatMul", [(5, 3), (), (), (3, 7), (), (), (), ()], (5, 7), {}, MATMUL),
        ("DynamicQuantizeMatMul", [(5, 3), (3, 7), (7,), (7,)], (5, 7), {}, MATMUL),
        # 6 x 4 outputs of 8 channels, each of 3 x 3 taps over 2 channels
        ("Conv", [(1, 2, 8, 6), (8, 2, 3, 3), (8,)], (1, 8, 6, 4), {}, 2 * 8 * 6 * 4 * 2 * 9),
        # two groups: each output sees half of the channels, which is the shape of its weights
        ("Conv", [(3, 4, 8, 8), (8, 2, 1, 1)], (3, 8, 8, 8), {"group": 2}, 2 * 3 * 8 * 64 * 2),
        ("Conv", [(1, 6, 8, 8), (6, 1, 3, 3)], (1, 6, 8, 8), {"group": 6}, 2 * 6 * 64 * 9),
        ("QLinearConv", [(1, 2, 8, 6), (), (), (8, 2, 3, 3), ()], (1, 8, 6, 4), {}, 2 * 8 * 6 * 4 * 2 * 9),
        # every input meets 2 x 2 taps of 8 channels
        ("ConvTranspose", [(1, 3, 5, 5), (3, 8, 2, 2)], (1, 8, 10, 10), {}, 2 * 3 * 25 * 8 * 4),
        ("Einsum", [(2, 5, 3), (2, 7, 3)], (2, 5, 7), {"equation": "bqd,bkd->bqk"}, 2 * MATMUL),
        ("Einsum", [(5, 3)], (3, 5), {"equation": "ij->ji"}, 0),
        ("Einsum", [(5, 3), (5, 3)], (), {"equation": "...,...->"}, 0),
        # two products for each of 2 x 4 heads
        ("Attention", [(2, 4, 5, 3), (2, 4, 7, 3), (2, 4, 7, 6)], (2, 4, 5, 6), {}, 2 * 8 * 5 * 7 * (3 + 6)),
        ("Attention", [(2, 5, 12), (2, 5, 12)], (2, 5, 12), {}, 0),
        ("Add", [(5, 3), (5, 3)], (5, 3), {}, 0),
        ("MatMul", [None, (3, 7)], (5, 7), {}, 0),
        ("Conv", [(1, 2, 8, 6)], (1, 8, 6, 4), {}, 0),
        ("MatMul", [], (5, 7), {}, 0),
    ],
)
def test_operations(operator: str, inputs: Any, output: Any, attributes: dict[str, Any], expected: int) -> None:
    assert operations(operator, inputs, output, attributes) == expected


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("MatMul", "linear"),
        ("Softmax", "activation"),
        ("LayerNormalization", "normalisation"),
        ("ReorderInput", "copies"),
        ("QuantizeLinear", "quantisation"),
        ("Add", "elementwise"),
        ("Gelu", "activation"),
        # OpenVINO's
        ("FullyConnected", "linear"),
        ("FullyConnectedCompressed", "linear"),
        ("MVN", "normalisation"),
        ("Reorder", "copies"),
        ("Subgraph", "elementwise"),
        ("ScaledDotProductAttention", "attention"),
        ("Convolution", "convolution"),
        # TensorRT's
        ("CaskGemmMatrixMultiply", "linear"),
        ("Reformatting", "copies"),
        ("_gemm_mha_v2_0x1", "attention"),
        ("CaskConvolution", "convolution"),
        ("nothing known", "other"),
    ],
)
def test_kinds(operator: str, kind: Kind) -> None:
    assert kind_of_operator(operator) == kind
    assert kind in KINDS
