"""Suppression of boxes in the graph, and the TensorRT that has no operator for it."""

from __future__ import annotations

from samedge.bundle.archive import Bundle
from samedge.errors import UsageError


def refuse_suppression(bundle: Bundle, name: str) -> None:
    """Refuse a graph that suppresses boxes where the TensorRT has no operator for it.

    Raises:
        UsageError: It is such a bundle.
    """
    yolo = bundle.manifest.yolo
    if name == "tensorrt-rtx" and yolo is not None and yolo.nms is not None:
        raise no_suppression(bundle.path)


def no_suppression(where: object) -> UsageError:
    """Return the error for boxes that are to be suppressed in an engine of TensorRT for RTX."""
    return UsageError(
        "the graph suppresses boxes (--nms), and TensorRT for RTX has no NonMaxSuppression",
        where=where,
        cure="Export without --nms: the host suppresses them in a millisecond",
    )
