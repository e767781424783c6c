"""Preparation of a model in a child process: export into the cache if needed, and description.

This child may import torch; the measured processes must not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from samedge.api.cached import cached_bundle
from samedge.api.load import load
from samedge.api.sam import is_bundle
from samedge.benchmarks.bench.stages.family import PreparedModel, bench_of
from samedge.bundle.archive import GRAPH_SUFFIXES, open_bundle
from samedge.families import family_of_graph


def prepare(source: str, backend: str, device: str | None, threads: int | None) -> dict[str, Any]:
    """Return a `PreparedModel` as JSON values; first export the model and choose the backend of "auto", if needed."""
    if Path(source).suffix.lower() in GRAPH_SUFFIXES:
        model = bench_of(family_of_graph(Path(source))).prepare_graph(Path(source))
    elif is_bundle(source):
        model = _bundle(source, "")
    else:
        model = _bundle(str(cached_bundle(source)), source)
    if is_bundle(model.artefact):
        # "auto" measures its candidates once and stores the choice: here, not in the process whose memory counts.
        load(model.artefact, backend, device, threads=threads, force=True).close()
    described: dict[str, Any] = msgspec.to_builtins(model)
    return described


def _bundle(path: str, checkpoint: str) -> PreparedModel:
    manifest = open_bundle(path, force=True).manifest
    bench = bench_of(manifest.model_family)
    main = manifest.graph(manifest.model_family.main)
    return PreparedModel(
        family=bench.kind(manifest),
        architecture=manifest.model.name,
        artefact=path,
        image_size=manifest.input.image_size,
        size_bytes=sum(file.size for graph in manifest.graphs for file in graph.files),
        parameters=manifest.model.parameters,
        gflops=manifest.model.encoder_gflops,
        prompt_gflops=manifest.model.decoder_gflops or None,
        precision=main.precision,
        seeded=manifest.model.seeded,
        verdict=manifest.parity.verdict,
        recorded=bench.recorded(manifest),
        checkpoint=checkpoint,
        grid=bench.grid,
    )
