"""The fields of a serialised protobuf message, walked without a schema and without reading what is not asked for.

An ONNX file is one such message, and most of its bytes are weights: whoever needs its names seeks over the rest. Knows
nothing of what the fields mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    Attributes:
        number: Its number in the schema.
        value: Of an integer field, as the unsigned 64 bits that are stored; None for the others.
        length: Bytes of its content, from where the file stands when the field is given; 0 for an integer.
        end: Where it ends in the file.
    """

    number: int
    value: int | None
    length: int
    end: int


def walk_fields(file: BinaryIO, end: int) -> Iterator[Field]:
    """Gives the fields of the message that starts where the file stands; how much of each is read does not matter.

    Args:
        file: Open for reading, and seekable.
        end: Where the message ends in the file.

    Raises:
        ValueError: It is no message, or is cut off.
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
            raise ValueError(f"a field of the unknown kind {kind}")
        field = Field(number, value, length, file.tell() + length)
        if field.end > end:
            raise ValueError("a field ends after its message")
        yield field
        file.seek(field.end)


def read_text(file: BinaryIO, field: Field) -> str:
    """Returns the content of a field as text; bytes that are no UTF-8 are replaced."""
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
