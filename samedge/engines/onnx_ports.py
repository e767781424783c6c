"""Names and axes of an ONNX graph's inputs and outputs, read without the package onnx and without its weights.

For runtimes that forget them: OpenVINO keeps no names of axes, and no order of the names of one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from samedge.errors import EngineError, storage_errors
from samedge.protobuf_fields import read_text, walk_fields

Axes: TypeAlias = "tuple[int | str | None, ...]"
"""One entry an axis: its size, its name, or None where the file has neither."""

_GRAPH: Final = 7  # of ModelProto
_INPUT, _OUTPUT = 11, 12  # of GraphProto
_NAME, _TYPE = 1, 2  # of ValueInfoProto
_TENSOR_TYPE: Final = 1  # of TypeProto
_SHAPE: Final = 2  # of TypeProto.Tensor
_DIMENSION: Final = 1  # of TensorShapeProto
_SIZE, _AXIS_NAME = 1, 2  # of TensorShapeProto.Dimension
_LARGEST_SIZE: Final = (1 << 63) - 1  # what is more was negative


@dataclass(frozen=True, slots=True)
class OnnxPorts:
    """What a graph takes and gives, in the order of the file.

    Attributes:
        inputs: Name to axes; None where the file does not say how many there are. Weights may be among them.
        outputs: The same of the outputs.
    """

    inputs: dict[str, Axes | None]
    outputs: dict[str, Axes | None]


def read_onnx_ports(path: Path) -> OnnxPorts:
    """Returns what the graph in an ONNX file takes and gives.

    Raises:
        EngineError: It is no ONNX file, or it is cut off.
        StorageError: It cannot be read.
    """
    with storage_errors(path, "read"), path.open("rb") as file:
        try:
            return _model(file, path.stat().st_size)
        except ValueError as error:
            raise EngineError(
                f"this is no ONNX file, or it is truncated ({error})",
                where=path.name,
                cure="Copy the file again, or export the checkpoint again",
            ) from error


def _model(file: BinaryIO, end: int) -> OnnxPorts:
    ports: OnnxPorts | None = None
    for part in walk_fields(file, end):
        if part.number == _GRAPH:
            ports = ports or OnnxPorts({}, {})
            sides = {_INPUT: ports.inputs, _OUTPUT: ports.outputs}
            for field in walk_fields(file, part.end):
                if field.number in sides:
                    name, axes = _port(file, field.end)
                    sides[field.number][name] = axes
    if ports is None:
        raise ValueError("it has no graph")
    return ports


def _port(file: BinaryIO, end: int) -> tuple[str, Axes | None]:
    name, axes = "", None
    for field in walk_fields(file, end):
        if field.number == _NAME:
            name = read_text(file, field)
        elif field.number == _TYPE:
            for kind in walk_fields(file, field.end):
                if kind.number == _TENSOR_TYPE:
                    axes = _shape(file, kind.end)
    return name, axes


def _shape(file: BinaryIO, end: int) -> Axes | None:
    for field in walk_fields(file, end):
        if field.number == _SHAPE:
            return tuple(_axis(file, axis.end) for axis in walk_fields(file, field.end) if axis.number == _DIMENSION)
    return None


def _axis(file: BinaryIO, end: int) -> int | str | None:
    axis: int | str | None = None
    for field in walk_fields(file, end):
        if field.number == _SIZE and field.value is not None and field.value <= _LARGEST_SIZE:
            axis = field.value
        elif field.number == _AXIS_NAME:
            axis = read_text(file, field) or None
    return axis
