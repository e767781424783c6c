"""Exporter's metadata of a graph file of any kind: classes, sizes, the task."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from samedge.engines.onnx_header import read_onnx_metadata
from samedge.engines.tensorrt.plan_file import inspect_plan

_PLAN_SUFFIXES: Final = (".engine", ".plan")


def read_graph_metadata(path: Path) -> dict[str, str]:
    """Return what a graph file says of itself, values that are not text as Python writes them.

    An ONNX file has it in its metadata, an engine that Ultralytics built in the JSON before its plan. Empty for a raw
    plan and for other kinds of files.

    Raises:
        EngineError: It is no such file, or it is cut off.
        StorageError: It cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return read_onnx_metadata(path)
    if suffix in _PLAN_SUFFIXES:
        told = inspect_plan(path).metadata
        return {name: value if isinstance(value, str) else repr(value) for name, value in told.items()}
    return {}
