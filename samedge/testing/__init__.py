"""Test doubles for programs that embed samedge: an engine, a predictor and CUDA without a runtime, a model or a GPU."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from samedge.testing.cuda import FakeCuda
    from samedge.testing.engine import FakeEngine, fake_engine
    from samedge.testing.predictor import fake_predictor

__all__ = ["FakeCuda", "FakeEngine", "fake_engine", "fake_predictor"]

_HOMES: Final = {
    "FakeCuda": "samedge.testing.cuda",
    "FakeEngine": "samedge.testing.engine",
    "fake_engine": "samedge.testing.engine",
    "fake_predictor": "samedge.testing.predictor",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'samedge.testing' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
