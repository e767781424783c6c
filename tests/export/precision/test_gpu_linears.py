"""int8 and fp8 linear layers for GPUs: the numbers against ml_dtypes and numpy, the graphs with onnxruntime."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.traced_graphs import run_graph

from samedge.export.precision.gpu_linears import FORMATS, FP8, encode_fp8, encode_int8, quantise_linears
from samedge.export.precision.half import to_half
from samedge.export.precision.int8 import Linear
from samedge.export.precision.rounding import rounding_twin
from samedge.types import Array, FloatArray

RANDOM = np.random.default_rng(5)


def test_every_number_of_fp8_is_encoded_as_itself() -> None:
    codes = np.arange(256, dtype=np.uint8)
    values = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    known = np.isfinite(values)
    assert known.sum() == 254
    np.testing.assert_array_equal(encode_fp8(values[known]), codes[known])


@given(st.lists(st.floats(-448, 448, width=32), min_size=1, max_size=50))
def test_fp8_rounds_as_ml_dtypes_does(values: list[float]) -> None:
    numbers = np.array(values, np.float32)
    want = numbers.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(encode_fp8(numbers), want)


def test_numbers_beyond_the_largest_are_the_largest() -> None:
    np.testing.assert_array_equal(encode_fp8(np.array([449, 1e9, -1e9], np.float32)), [0x7E, 0x7E, 0xFE])
    np.testing.assert_array_equal(encode_int8(np.array([127.4, 300, -300, -0.5], np.float32)), [127, 127, 129, 0])


# No Relu: onnxruntime 1.32 takes one out before a QuantizeLinear to fp8. SAM has none there.
def two_layers(opset: int) -> onnx.ModelProto:
    """x ``[n, 256]`` through a Gemm (weight transposed, with bias), Tanh, and a MatMul; one column is tiny."""
    weights = {
        "wide": RANDOM.normal(0, 0.05, (512, 256)),
        "bias": RANDOM.normal(0, 0.1, 512),
        "narrow": RANDOM.normal(0, 0.05, (512, 256)),
    }
    weights["narrow"][:, 7] *= 1e-5  # with a scale that float16 has not
    nodes = [
        helper.make_node("Gemm", ["x", "wide", "bias"], ["a"], name="wide", transB=1),
        helper.make_node("Tanh", ["a"], ["b"], name="tanh"),
        helper.make_node("MatMul", ["b", "narrow"], ["y"], name="narrow"),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 256]) for name in "xy"]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "two", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def decoded(tensor: TensorProto) -> FloatArray:
    kind: Any = np.int8 if tensor.data_type == TensorProto.INT8 else ml_dtypes.float8_e4m3fn
    values: FloatArray = np.frombuffer(tensor.raw_data, kind).astype(np.float32).reshape(tuple(tensor.dims))
    return values


@pytest.mark.parametrize(("name", "opset"), [("int8", 17), ("int8", 19), ("fp8", 19)])
def test_a_graph_computes_what_numpy_does_with_its_numbers(name: str, opset: int) -> None:
    model, before = two_layers(opset), two_layers(opset)
    before.CopyFrom(model)
    x = RANDOM.normal(size=(64, 256)).astype(np.float32)
    ranges = {"x": 4.0, "b": 1.0}
    assert quantise_linears(model, ranges, FORMATS[name]) == 2
    onnx.checker.check_model(model, full_check=True)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    form, values = FORMATS[name], x
    for layer, activation, axis in (("wide", "x", 0), ("narrow", "b", 1)):
        scale = numpy_helper.to_array(tensors[f"{layer}_scale"])
        np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float32))
        assert scale.min() > 0
        weight = decoded(tensors[f"{layer}_int8"]) * np.expand_dims(scale, 1 - axis)
        original = numpy_helper.to_array(next(t for t in before.graph.initializer if t.name == layer))
        large = np.abs(original) > np.abs(original).max(1 - axis, keepdims=True) / 8
        if layer == "narrow":
            large[:, 7] = False
        np.testing.assert_allclose(weight[large], original[large], rtol=0.07)
        step = numpy_helper.to_array(tensors[f"{activation}_scale"])
        held = TensorProto(
            data_type=form.element_type, dims=values.shape, raw_data=form.encode(values / step).tobytes()
        )
        bias = numpy_helper.to_array(tensors["bias"]) if layer == "wide" else 0
        values = (decoded(held) * step) @ (weight.T if layer == "wide" else weight) + bias
        values = np.tanh(values) if layer == "wide" else values
    feeds: dict[str, Array] = {"x": x}
    have = run_graph(model, feeds)[0]
    # An activation that lies between two numbers may go either way.
    assert np.abs(have - values).max() < 0.02 * np.abs(values).max()
    assert np.median(np.abs(have - values)) < 1e-5
    want = run_graph(before, feeds)[0]
    assert 1e-4 < np.linalg.norm(have - want) / np.linalg.norm(want) < (0.03 if name == "int8" else 0.06)


@pytest.mark.parametrize(("name", "opset"), [("int8", 17), ("int8", 19), ("fp8", 19)])
def test_the_rest_becomes_float16_and_the_numbers_stay(name: str, opset: int) -> None:
    model = two_layers(opset)
    quantise_linears(model, {"x": 4.0, "b": 1.0}, FORMATS[name])
    before = onnx.ModelProto.FromString(model.SerializeToString())
    report = to_half(model, "fp16")
    onnx.checker.check_model(model, full_check=True)
    assert dict(report.islands) == ({"scales": 6} if opset < 19 else {})
    old = {tensor.name: tensor for tensor in before.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name.endswith("_int8"):
            assert tensor == old[tensor.name]
        elif tensor.name.endswith("_scale"):
            assert tensor.data_type == (TensorProto.FLOAT if opset < 19 else TensorProto.FLOAT16)
            np.testing.assert_array_equal(
                numpy_helper.to_array(tensor).astype(np.float32), numpy_helper.to_array(old[tensor.name])
            )
    feeds: dict[str, Array] = {"x": RANDOM.normal(size=(16, 256)).astype(np.float32)}
    want = run_graph(before, feeds)[0]
    assert rounding_twin(model) > 3
    have = run_graph(model, feeds)[0]
    assert np.linalg.norm(have - want) / np.linalg.norm(want) < 0.02


def test_a_layer_can_be_kept() -> None:
    model = two_layers(19)

    def choose(linear: Linear) -> bool:
        return linear.node.name == "narrow"

    assert quantise_linears(model, {"x": 4.0, "b": 1.0}, FP8, choose) == 1
    assert [node.op_type for node in model.graph.node] == [
        "Gemm", "Tanh", "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul",
    ]  # fmt: skip
