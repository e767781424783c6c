"""samedge: Segment Anything on the edge.

    import samedge
    predictor = samedge.load("sam_b-samedge")         # a bundle that `samedge export sam_b.pt` wrote; no torch needed
    predictor.set_image("photo.jpg")
    prediction = predictor.predict(points=[[400, 300]])

Names are loaded on first use, so that ``import samedge`` takes milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from samedge.moved import install as find_moved_modules
from samedge.version import __version__

if TYPE_CHECKING:
    from samedge.annotation.auto_annotate import auto_annotate
    from samedge.api.load import load
    from samedge.api.sam import SAM
    from samedge.api.sam_predictor import SAMPredictor
    from samedge.api.yolo import YOLO, FastSAM
    from samedge.engines.registry import backends
    from samedge.engines.selection import kept_decisions
    from samedge.errors import SamedgeError, SamedgeWarning
    from samedge.export.engines.build import build_engines
    from samedge.export.exporter import export_model
    from samedge.parity.verify import verify_bundle
    from samedge.runtime.everything.found import FoundMasks
    from samedge.runtime.predictor import Prediction, Predictor
    from samedge.runtime.results.results import Boxes, Masks, Results
    from samedge.runtime.stream.stream import Stream, StreamItem
    from samedge.runtime.yolo.predictor import YoloPredictor

_HOMES: Final = {
    "YOLO": "samedge.api.yolo",
    "FastSAM": "samedge.api.yolo",
    "SAM": "samedge.api.sam",
    "SAMPredictor": "samedge.api.sam_predictor",
    "SamedgeError": "samedge.errors",
    "SamedgeWarning": "samedge.errors",
    "auto_annotate": "samedge.annotation.auto_annotate",
    "backends": "samedge.engines.registry",
    "kept_decisions": "samedge.engines.selection",
    "build_engines": "samedge.export.engines.build",
    "export_model": "samedge.export.exporter",
    "verify_bundle": "samedge.parity.verify",
    "FoundMasks": "samedge.runtime.everything.found",
    "load": "samedge.api.load",
    "Prediction": "samedge.runtime.predictor",
    "Predictor": "samedge.runtime.predictor",
    "Boxes": "samedge.runtime.results.results",
    "Masks": "samedge.runtime.results.results",
    "Results": "samedge.runtime.results.results",
    "Stream": "samedge.runtime.stream.stream",
    "StreamItem": "samedge.runtime.stream.stream",
    "YoloPredictor": "samedge.runtime.yolo.predictor",
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
    "SamedgeWarning",
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

find_moved_modules()


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'samedge' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
