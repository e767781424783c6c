"""Linear layers in int8 or fp8 for GPU compilers, in a graph that otherwise becomes float16.

The Q/DQ pairs are those of `samedge.export.precision.int8.quantise_static` with other numbers: every scale is a float16
number, and weights are rounded to multiples of it, so that nothing is lost when `samedge.export.precision.half` makes
the scales float16. fp8 is E4M3: 4 bits of exponent, 3 of mantissa, up to 448, no infinities; for GPUs of compute
capability 8.9 or higher and ONNX opset 19 or later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from samedge.export.precision.int8 import Linear, linears, quantise_static
from samedge.types import FloatArray

_SMALLEST_SCALE: Final = 2.0**-24
"""Smallest positive float16."""


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A one-byte number format for weights and activations.

    Attributes:
        name: Name of the precision.
        element_type: TensorProto's.
        largest: The largest number.
        headroom: Multiple of an activation's range that the largest number represents. Ranges exclude outliers: with
            more headroom integers lose resolution for all other numbers, floats do not.
        encode: Maps float32 in units of the scale to bytes.
    """

    name: str
    element_type: int
    largest: float
    headroom: float
    encode: Callable[[FloatArray], NDArray[np.uint8]]


def encode_int8(values: FloatArray) -> NDArray[np.uint8]:
    """Round to integers from -127 to 127, and return their bytes."""
    codes: NDArray[np.uint8] = np.rint(values).clip(-127, 127).astype(np.int8).view(np.uint8)
    return codes


def encode_fp8(values: FloatArray) -> NDArray[np.uint8]:
    """Round to E4M3, ties to even, clipping to 448, and return the bytes."""
    magnitudes = np.minimum(np.abs(values), np.float32(448))
    # 8 to 15 steps from one power of two to the next; below 2 ** -6 the step is constant, and counted from 0.
    exponents = np.where(magnitudes > 0, np.maximum(np.frexp(magnitudes)[1] - 1, -6), -6)
    steps = np.rint(np.ldexp(magnitudes, 3 - exponents)).astype(np.int32)
    codes = 8 * (exponents + 6) + steps  # 16 steps are 8 of the next power of two
    signed: NDArray[np.uint8] = np.where(np.signbit(values), codes | 0x80, codes).astype(np.uint8)
    return signed


INT8: Final = NumberFormat("int8", TensorProto.INT8, 127.0, 1.0, encode_int8)
FP8: Final = NumberFormat("fp8", TensorProto.FLOAT8E4M3FN, 448.0, 4.0, encode_fp8)
FORMATS: Final = {"int8": INT8, "fp8": FP8}


def quantise_linears(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    form: NumberFormat,
    choose: Callable[[Linear], bool] = lambda _: True,
) -> int:
    """Make linear layers int8 or fp8 by Q/DQ pairs with fixed ranges, in place, and return their number.

    Args:
        model: A float32 graph; for fp8, of opset `FP8_OPSET` or later.
        ranges: For each activation, the magnitude that only outliers exceed.
        form: The format.
        choose: Selects layers; the others stay float32.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weights: dict[str, FloatArray] = {
        linear.weight: numpy_helper.to_array(constants[linear.weight])
        for linear in linears(model.graph)
        if choose(linear) and linear.activation in ranges
    }
    changed = quantise_static(model, ranges, choose)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    done: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        data, scale, zero = node.input[:3]
        if scale in done:
            continue
        done.add(scale)
        headroom = 1.0 if data in constants else form.headroom
        scales = numpy_helper.to_array(constants[scale]).astype(np.float32) * np.float32(headroom * 127 / form.largest)
        scales = np.maximum(scales, np.float32(_SMALLEST_SCALE)).astype(np.float16).astype(np.float32)
        constants[scale].CopyFrom(numpy_helper.from_array(np.asarray(scales), scale))
        _store(constants[zero], form, np.zeros(scales.shape, np.uint8))
        if data in constants:
            weight = weights[data.removesuffix("_int8")]
            axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
            along = scales.reshape([-1 if place == axis else 1 for place in range(weight.ndim)])
            _store(constants[data], form, form.encode(weight / along))
    return changed


def _store(tensor: TensorProto, form: NumberFormat, codes: NDArray[np.uint8]) -> None:
    """Replace the numbers of an initializer; not every version of onnx has a numpy type for fp8."""
    name = tensor.name
    tensor.Clear()
    tensor.name, tensor.data_type = name, form.element_type
    tensor.dims.extend(codes.shape)
    tensor.raw_data = codes.tobytes()
