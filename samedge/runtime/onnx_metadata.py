"""The key-value pairs that exporters leave in an ONNX file, read without the package onnx and without its weights.

Only the outermost message of the file is walked: every field but the pairs is skipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from samedge.errors import EngineError, storage_errors
from samedge.protobuf_fields import read_text, walk_fields

_METADATA_FIELD: Final = 14
_MAX_ENTRY: Final = 1 << 22


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """Returns ``metadata_props`` of an ONNX file; empty where it has none.

    Raises:
        EngineError: It is no ONNX file, or it is cut off.
        StorageError: It cannot be read.
    """
    pairs: dict[str, str] = {}
    with storage_errors(path, "read"), path.open("rb") as file:
        try:
            for field in walk_fields(file, path.stat().st_size):
                if field.number == _METADATA_FIELD and field.length <= _MAX_ENTRY:
                    entry = {part.number: read_text(file, part) for part in walk_fields(file, field.end)}
                    pairs[entry.get(1, "")] = entry.get(2, "")
        except ValueError as error:
            raise EngineError(
                f"this is no ONNX file, or it is cut off ({error})", where=path, cure="Get or export the file again"
            ) from error
    return pairs
