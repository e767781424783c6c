"""From a source to what runs: exported into the cache if need be, and described. Called in a child process.

That process may import torch; those that are timed do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from samedge.api.cached import cached_bundle
from samedge.api.load import load
from samedge.api.sam import is_bundle
from samedge.benchmarks.bench.stages.family import Prepared, bench_of
from samedge.bundle.archive import GRAPH_SUFFIXES, open_bundle
from samedge.families import family_of_graph


def prepare(source: str, backend: str, device: str | None, threads: int | None) -> dict[str, Any]:
    """Return a `Prepared`, as JSON: exports what is not exported yet, and chooses the backend that "auto" means.

    Args:
        source: Bundle, graph, checkpoint, known name, or "seeded:NAME".
        backend: As for `samedge.load`.
        device: As for `samedge.load`.
        threads: As for `samedge.load`.

    Raises:
        SamedgeError: It cannot be read or exported.
    """
    if Path(source).suffix.lower() in GRAPH_SUFFIXES:
        found = bench_of(family_of_graph(Path(source))).prepare_graph(Path(source))
    elif is_bundle(source):
        found = _bundle(source, "")
    else:
        found = _bundle(str(cached_bundle(source)), source)
    if is_bundle(found.artefact):
        # "auto" measures once and keeps what it found: here, and not in the process whose memory counts.
        load(found.artefact, backend, device, threads=threads, force=True).close()
    described: dict[str, Any] = msgspec.to_builtins(found)
    return described


def _bundle(path: str, checkpoint: str) -> Prepared:
    manifest = open_bundle(path, force=True).manifest
    bench = bench_of(manifest.model_family)
    main = manifest.graph(manifest.model_family.main)
    return Prepared(
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
