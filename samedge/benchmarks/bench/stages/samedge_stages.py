"""The stages of samedge's own models, through the classes that their users call."""

from __future__ import annotations

from samedge.benchmarks.bench.stages.family import bench_of
from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Capabilities, OpenRequest
from samedge.benchmarks.bench.stages.serve import LoadedModel
from samedge.bundle.archive import model_family
from samedge.runtime.image.read import as_bgr
from samedge.version import __version__


def hello() -> Capabilities:
    """Report that this package is available."""
    return Capabilities(PROTOCOL, "samedge", __version__)


def open_model(opening: OpenRequest) -> LoadedModel:
    """Load a bundle or a graph of samedge.

    Raises:
        SamedgeError: The model cannot be loaded.
    """
    pictures = [as_bgr(path) for path in opening.images]
    return bench_of(model_family(opening.artefact)).open(opening, pictures)
