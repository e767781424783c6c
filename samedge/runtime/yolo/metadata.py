"""Metadata that exporters write into graph files: class names, image size, stride, task."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from samedge.bundle.archive import ENGINE_SUFFIXES
from samedge.engines.onnx_header import read_onnx_metadata
from samedge.engines.tensorrt.plan_file import inspect_plan

_PLAN_SUFFIXES: Final = (".engine", ".plan")


def read_graph_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file, or of an engine in the JSON that Ultralytics writes before the plan.

    Values other than strings are returned as their `repr`. Raw plans and other files have none.

    Raises:
        EngineError: The file is invalid or truncated.
        StorageError: It cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return read_onnx_metadata(path)
    if suffix in _PLAN_SUFFIXES:
        metadata = inspect_plan(path).metadata
        return {name: value if isinstance(value, str) else repr(value) for name, value in metadata.items()}
    return {}


def is_yolo_graph(path: Path) -> bool:
    """Return True if a bare graph file is a YOLO: only YOLO runs without a bundle. Engines need Ultralytics' header."""
    return bool(inspect_plan(path).metadata) if path.suffix.lower() in ENGINE_SUFFIXES else True
