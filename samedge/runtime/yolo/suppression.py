"""Rejection of graphs with box suppression by TensorRT for RTX, which lacks NonMaxSuppression."""

from __future__ import annotations

from samedge.bundle.archive import Bundle
from samedge.errors import UsageError


def refuse_suppression(bundle: Bundle, name: str) -> None:
    """Raise UsageError for a bundle with box suppression on TensorRT for RTX."""
    yolo = bundle.manifest.yolo
    if name == "tensorrt-rtx" and yolo is not None and yolo.nms is not None:
        raise no_suppression(bundle.path)


def no_suppression(where: object) -> UsageError:
    """Return the error for box suppression on TensorRT for RTX."""
    return UsageError(
        "the graph suppresses boxes (--nms), but TensorRT for RTX has no NonMaxSuppression",
        where=where,
        cure="Export without --nms: the host suppresses them in a millisecond",
    )
