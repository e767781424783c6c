"""The stages of samedge's own models, through the classes that their users call."""

from __future__ import annotations

from samedge.benchmarks.bench.stages.family import bench_of
from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Hello, Opening
from samedge.benchmarks.bench.stages.serve import Loaded
from samedge.bundle.archive import model_family
from samedge.runtime.image.read import as_bgr
from samedge.version import __version__


def hello() -> Hello:
    """This package can always be asked."""
    return Hello(PROTOCOL, "samedge", __version__)


def open_model(opening: Opening) -> Loaded:
    """Load a bundle or a graph of samedge.

    Raises:
        SamedgeError: It cannot be loaded.
    """
    pictures = [as_bgr(path) for path in opening.images]
    return bench_of(model_family(opening.artefact)).open(opening, pictures)
