"""Names and axes of an ONNX graph's inputs and outputs, read without the onnx package and without loading weights.

Needed because OpenVINO discards axis names and the order of a tensor's names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from samedge.errors import EngineError
from samedge.storage.files import storage_errors

Axes: TypeAlias = "tuple[int | str | None, ...]"
"""One entry per axis: its size, its name, or None if the file gives neither."""

_GRAPH: Final = 7  # of ModelProto
_INPUT, _OUTPUT = 11, 12  # of GraphProto
_NAME, _TYPE = 1, 2  # of ValueInfoProto
_TENSOR_TYPE: Final = 1  # of TypeProto
_SHAPE: Final = 2  # of TypeProto.Tensor
_DIMENSION: Final = 1  # of TensorShapeProto
_SIZE, _AXIS_NAME = 1, 2  # of TensorShapeProto.Dimension
_LARGEST_SIZE: Final = (1 << 63) - 1  # larger values are negative sizes


@dataclass(frozen=True, slots=True)
class OnnxPorts:
    """Inputs and outputs of a graph, in file order.

    Attributes:
        inputs: Name to axes; None if the rank is unknown. Initialisers may be among them.
        outputs: Name to axes, likewise.
    """

    inputs: dict[str, Axes | None]
    outputs: dict[str, Axes | None]


def read_onnx_ports(path: Path) -> OnnxPorts:
    """Read the names and axes of an ONNX graph's inputs and outputs."""
    with storage_errors(path, "read"), path.open("rb") as file:
        try:
            return _model(file, path.stat().st_size)
        except ValueError as error:
            raise EngineError(
                f"not an ONNX file, or truncated ({error})",
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
        raise ValueError("the model has no graph")
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


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    Attributes:
        number: Field number in the schema.
        value: An integer field's 64 bits, unsigned; None for other kinds.
        length: Bytes of content from the file's position; 0 for an integer.
        end: End of the field in the file.
    """

    number: int
    value: int | None
    length: int
    end: int


def walk_fields(file: BinaryIO, end: int) -> Iterator[Field]:
    """Yield the fields of the message at the file's position; the caller may read any part of each.

    Args:
        file: Seekable file, open for reading.
        end: End of the message in the file.

    Raises:
        ValueError: The bytes are not a message, or are truncated.
    """
    while file.tell() < end:
        key = _varint(file)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field without a number")
        if kind == _VARINT:
            value, length = _varint(file), 0
        elif kind == _BYTES:
            value, length = None, _varint(file)
        elif kind in _FIXED_SIZES:
            value, length = None, _FIXED_SIZES[kind]
        else:
            raise ValueError(f"unknown wire type {kind}")
        field = Field(number, value, length, file.tell() + length)
        if field.end > end:
            raise ValueError("a field extends beyond its message")
        yield field
        file.seek(field.end)


def read_text(file: BinaryIO, field: Field) -> str:
    """Return the content of a field as text, replacing invalid UTF-8."""
    return file.read(field.length).decode("utf-8", "replace")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("the file ends inside a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than ten bytes")


_METADATA_FIELD: Final = 14
_MAX_ENTRY: Final = 1 << 22


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """Return ``metadata_props`` of an ONNX file, or an empty dictionary."""
    pairs: dict[str, str] = {}
    with storage_errors(path, "read"), path.open("rb") as file:
        try:
            for field in walk_fields(file, path.stat().st_size):
                if field.number == _METADATA_FIELD and field.length <= _MAX_ENTRY:
                    entry = {part.number: read_text(file, part) for part in walk_fields(file, field.end)}
                    pairs[entry.get(1, "")] = entry.get(2, "")
        except ValueError as error:
            raise EngineError(
                f"not an ONNX file, or truncated ({error})", where=path, cure="Copy or export the file again"
            ) from error
    return pairs


_OPSET, _PRODUCER, _DOC = 8, 2, 6  # of ModelProto
_NODE, _INITIALIZER = 1, 5  # of GraphProto
_TENSOR_NAME, _EXTERNAL = 8, 13  # of TensorProto
_NODE_INPUT, _NODE_OUTPUT, _OPERATOR, _DOMAIN = 1, 2, 4, 7  # of NodeProto
_ELEMENT_TYPE: Final = 1  # of TypeProto.Tensor
_DTYPES: Final = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """A node of a graph: its operator, the names of its inputs and outputs, and its operator's domain."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""


@dataclass(slots=True)
class OnnxContents:
    """The contents of an ONNX file without its weights.

    Attributes:
        inputs: Name to numpy dtype name, empty for another kind of value, and axes; initialisers left out.
        outputs: Likewise.
        nodes: Nodes in file order; those inside loops and branches left out.
        initializers: Names of the weights.
        external: Names of files with weights beside the graph.
        opset: Version of the default operators.
        producer: Name of the program that wrote it.
        doc: Its description.
        metadata: ``metadata_props``.
    """

    inputs: dict[str, tuple[str, Axes | None]] = dataclasses.field(default_factory=dict)
    outputs: dict[str, tuple[str, Axes | None]] = dataclasses.field(default_factory=dict)
    nodes: list[OnnxNode] = dataclasses.field(default_factory=list)
    initializers: set[str] = dataclasses.field(default_factory=set)
    external: set[str] = dataclasses.field(default_factory=set)
    opset: int = 0
    producer: str = ""
    doc: str = ""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)


def read_onnx_contents(path: Path) -> OnnxContents:
    """Read an ONNX file without its weights."""
    contents, graphs = OnnxContents(), 0
    with storage_errors(path, "read"), path.open("rb") as file:
        try:
            for part in walk_fields(file, path.stat().st_size):
                if part.number == _GRAPH:
                    graphs += 1
                    _read_graph(file, part.end, contents)
                else:
                    _read_model_field(file, part, contents)
        except ValueError as error:
            raise EngineError(
                f"not an ONNX file, or truncated ({error})", where=path, cure="Copy or export the file again"
            ) from error
    if not graphs:
        raise EngineError("not an ONNX file: it has no graph", where=path, cure="Copy or export the file again")
    contents.inputs = {name: port for name, port in contents.inputs.items() if name not in contents.initializers}
    return contents


def _read_model_field(file: BinaryIO, part: Field, contents: OnnxContents) -> None:
    if part.length > _MAX_ENTRY:
        return
    if part.number == _PRODUCER:
        contents.producer = read_text(file, part)
    elif part.number == _DOC:
        contents.doc = read_text(file, part)
    elif part.number == _METADATA_FIELD:
        entry = {each.number: read_text(file, each) for each in walk_fields(file, part.end)}
        contents.metadata[entry.get(1, "")] = entry.get(2, "")
    elif part.number == _OPSET:
        domain, opset = "", 0
        for each in walk_fields(file, part.end):
            domain = read_text(file, each) if each.number == 1 else domain
            opset = each.value or 0 if each.number == 2 else opset
        contents.opset = opset if domain in ("", "ai.onnx") else contents.opset


def _read_graph(file: BinaryIO, end: int, contents: OnnxContents) -> None:
    sides = {_INPUT: contents.inputs, _OUTPUT: contents.outputs}
    for part in walk_fields(file, end):
        if part.number in sides:
            name, dtype, axes = _typed_port(file, part.end)
            sides[part.number][name] = (dtype, axes)
        elif part.number == _NODE:
            texts: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _OPERATOR: [], _DOMAIN: []}
            for each in walk_fields(file, part.end):
                if each.number in texts:
                    texts[each.number].append(read_text(file, each))
            operator, domain = "".join(texts[_OPERATOR]), "".join(texts[_DOMAIN])
            contents.nodes.append(OnnxNode(operator, tuple(texts[_NODE_INPUT]), tuple(texts[_NODE_OUTPUT]), domain))
        elif part.number == _INITIALIZER:
            for each in walk_fields(file, part.end):
                if each.number == _TENSOR_NAME:
                    contents.initializers.add(read_text(file, each))
                elif each.number == _EXTERNAL:
                    entry = {pair.number: read_text(file, pair) for pair in walk_fields(file, each.end)}
                    if entry.get(1) == "location":
                        contents.external.add(entry.get(2, ""))


def _typed_port(file: BinaryIO, end: int) -> tuple[str, str, Axes | None]:
    name, dtype, axes = "", "", None
    for part in walk_fields(file, end):
        if part.number == _NAME:
            name = read_text(file, part)
        elif part.number == _TYPE:
            for kind in walk_fields(file, part.end):
                if kind.number != _TENSOR_TYPE:
                    continue
                for each in walk_fields(file, kind.end):
                    if each.number == _ELEMENT_TYPE:
                        dtype = _DTYPES.get(each.value or 0, "")
                    elif each.number == _SHAPE:
                        axes = tuple(_axis(file, one.end) for one in walk_fields(file, each.end) if one.number == 1)
    return name, dtype, axes
