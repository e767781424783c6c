"""samedge: Segment Anything on the edge.

    import samedge
    predictor = samedge.load("sam_b-samedge")         # a bundle that `samedge export sam_b.pt` wrote; no torch needed
    predictor.set_image("photo.jpg")
    prediction = predictor.predict(points=[[400, 300]])

Names are loaded when they are first used, so that ``import samedge`` costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

__version__: Final = "0.1.0"

if TYPE_CHECKING:
    from samedge.annotation.auto_annotate import auto_annotate
    from samedge.api import SAM
    from samedge.engines.decisions import kept_decisions
    from samedge.engines.report import backends
    from samedge.errors import SamedgeError
    from samedge.export.bundle_build import build_engines
    from samedge.export.exporter import export_model
    from samedge.runtime.everything.found import FoundMasks
    from samedge.runtime.load import load
    from samedge.runtime.parity.verify import verify_bundle
    from samedge.runtime.predictor import Prediction, Predictor
    from samedge.runtime.results import Boxes, Masks, Results
    from samedge.runtime.stream import Stream, StreamItem
    from samedge.runtime.yolo_predictor import YoloPredictor
    from samedge.sam_predictor import SAMPredictor
    from samedge.yolo import YOLO, FastSAM

_HOMES: Final = {
    "YOLO": "samedge.yolo",
    "FastSAM": "samedge.yolo",
    "SAM": "samedge.api",
    "SAMPredictor": "samedge.sam_predictor",
    "SamedgeError": "samedge.errors",
    "auto_annotate": "samedge.annotation.auto_annotate",
    "backends": "samedge.engines.report",
    "kept_decisions": "samedge.engines.decisions",
    "build_engines": "samedge.export.bundle_build",
    "export_model": "samedge.export.exporter",
    "verify_bundle": "samedge.runtime.parity.verify",
    "FoundMasks": "samedge.runtime.everything.found",
    "load": "samedge.runtime.load",
    "Prediction": "samedge.runtime.predictor",
    "Predictor": "samedge.runtime.predictor",
    "Boxes": "samedge.runtime.results",
    "Masks": "samedge.runtime.results",
    "Results": "samedge.runtime.results",
    "Stream": "samedge.runtime.stream",
    "StreamItem": "samedge.runtime.stream",
    "YoloPredictor": "samedge.runtime.yolo_predictor",
}

__all__ = [
    "SAM",
    "YOLO",
    "Boxes",
    "FastSAM",
    "FoundMasks",
    "Masks",
    "Prediction",
    "Predictor",
    "Results",
    "SAMPredictor",
    "SamedgeError",
    "Stream",
    "StreamItem",
    "YoloPredictor",
    "__version__",
    "auto_annotate",
    "backends",
    "build_engines",
    "export_model",
    "kept_decisions",
    "load",
    "verify_bundle",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'samedge' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
