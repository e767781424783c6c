"""Messages are walked without a schema, and what is no message is said to be none."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samedge.engines.onnx_header import Field, read_text, walk_fields

MESSAGE = b"\x08\x96\x01" + b"\x12\x05hello" + b"\x1d\x01\x02\x03\x04" + b"\x21" + bytes(8) + b"\x7a\x00"


def walked(data: bytes) -> list[Field]:
    return list(walk_fields(io.BytesIO(data), len(data)))


def test_every_kind_of_field() -> None:
    assert walked(MESSAGE) == [
        Field(1, 150, 0, 3),
        Field(2, None, 5, 10),
        Field(3, None, 4, 15),
        Field(4, None, 8, 24),
        Field(15, None, 0, 26),
    ]


def test_how_much_is_read_between_does_not_matter() -> None:
    file = io.BytesIO(MESSAGE)
    numbers = []
    for field in walk_fields(file, len(MESSAGE)):
        numbers.append(field.number)
        if field.number == 2:
            assert read_text(file, field) == "hello"
        else:
            file.read()
    assert numbers == [1, 2, 3, 4, 15]


def test_negative_integers_are_given_as_stored() -> None:
    assert walked(b"\x08" + b"\xff" * 9 + b"\x01")[0].value == (1 << 64) - 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x01", "without a number"),
        (b"\x0b", "unknown wire type 3"),
        (b"\x12\x05hell", "extends beyond its message"),
        (b"\x0d\x01", "extends beyond its message"),
        (b"\x08", "ends inside a number"),
        (b"\x08\x80", "ends inside a number"),
        (b"\x08" + b"\x80" * 11, "more than ten bytes"),
    ],
)
def test_what_is_no_message(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        walked(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_a_value_error(data: bytes) -> None:
    try:
        fields = walked(data)
    except ValueError:
        return
    assert [field.end for field in fields] == sorted({field.end for field in fields})
    assert not fields or fields[-1].end == len(data)
