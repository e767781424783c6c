"""`samedge.load`: from a bundle to a predictor, without torch."""

from __future__ import annotations

import os
from contextlib import ExitStack

from samedge.engines.registry import AUTO, open_engine
from samedge.runtime.bundle import open_bundle
from samedge.runtime.predictor import Predictor
from samedge.runtime.schemes import check_graph


def load(
    bundle: str | os.PathLike[str],
    backend: str = AUTO,
    device: str | None = None,
    *,
    threads: int | None = None,
    force: bool = False,
) -> Predictor:
    """Opens a bundle as a predictor; which backend and device it got is in `Predictor.backend` and `Predictor.device`.

    Args:
        bundle: The folder or ``.samedge`` file that ``samedge export`` wrote.
        backend: "auto" for the first that works here, or the name of one.
        device: "cpu", "cuda", "cuda:1", or a backend's own name for a device. A device that was named is used or is an
            error. None lets the backend choose.
        threads: CPU threads; None for all physical cores.
        force: Load a bundle whose parity verdict is "failed" as well.

    Raises:
        BundleError: It is not a bundle (a checkpoint has to be exported first), or not a whole one.
        IntegrityError: A file is missing, or is not what the manifest says.
        ParityError: Its graphs do not give the checkpoint's masks.
        BackendUnavailableError: The backend is not known or not installed.
        DeviceUnavailableError: The device cannot be had.
        EngineError: A graph cannot be opened.
    """
    opened = open_bundle(bundle, force=force)
    manifest = opened.manifest
    with ExitStack() as stack:
        encoder = open_engine(opened.graph_path("encoder"), backend=backend, device=device, threads=threads)
        stack.callback(encoder.close)
        check_graph(manifest.graph("encoder"), encoder)
        # What was chosen for the encoder holds for the decoder.
        decoder = open_engine(
            opened.graph_path("decoder"), backend=encoder.backend, device=encoder.device, threads=threads
        )
        stack.callback(decoder.close)
        check_graph(manifest.graph("decoder"), decoder)
        predictor = Predictor(manifest, encoder, decoder)
        stack.pop_all()
    return predictor
