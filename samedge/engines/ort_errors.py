"""What onnxruntime raises, as errors of this package."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from samedge.errors import EngineError, SamedgeError


@contextlib.contextmanager
def foreign_errors(where: str, what: str) -> Iterator[None]:
    """Turns whatever onnxruntime raises inside the block into an `EngineError` with a cure."""
    try:
        yield
    except SamedgeError:
        raise
    except Exception as error:
        cause = first_line(error)
        cures = (
            ("alloc", "There is not enough memory: close other programs, or take a smaller model or precision"),
            ("external", "A file with weights that belongs beside the graph is missing or damaged: copy it again"),
            ("Protobuf", "The file is truncated or not an ONNX graph: copy it again, or export the checkpoint again"),
            ("opset", "Update onnxruntime, or export the checkpoint with a lower opset"),
            ("IR version", "Update onnxruntime, or export the checkpoint with a lower opset"),
            ("NOT_IMPLEMENTED", "The graph has an operator that this build lacks: update onnxruntime"),
        )
        cure = next((cure for sign, cure in cures if sign.lower() in cause.lower()), "Export the checkpoint again")
        raise EngineError(f"{what} ({cause})", where=where, cure=cure, kind=type(error).__name__) from error


def first_line(error: Exception) -> str:
    """The cause as one short line, without onnxruntime's prefix."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[ONNXRuntimeError\] : (\d+ : )?", "", lines[0])[:300]
