"""Contenders: each model of samedge and its peers on the same weights, each in its own process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from samedge.api.cached import cached_bundle
from samedge.api.load import load
from samedge.benchmarks.bench.options import BenchOptions, Prompts
from samedge.benchmarks.bench.records import ModelRow
from samedge.benchmarks.bench.sources import ModelSource, model_sources
from samedge.benchmarks.bench.stages.family import PreparedModel, bench_of
from samedge.benchmarks.bench.stages.peer_protocol import OpenRequest
from samedge.benchmarks.measure.artefacts import PACKAGE, Artefacts
from samedge.benchmarks.measure.child import call_in_child
from samedge.benchmarks.measure.thresholds import DEMO_THRESHOLDS
from samedge.bundle.archive import GRAPH_SUFFIXES, is_bundle, model_family, open_bundle
from samedge.errors import SamedgeError, UsageError
from samedge.families import families, family_of_graph
from samedge.models.checkpoints.weights import SEEDED, find_checkpoint

_SERVE: Final = (sys.executable, "-m", "samedge.benchmarks.bench.stages.serve")
PLAIN: Final = "plain-onnx"
"""The peer that needs exported graphs instead of weights."""
ULTRALYTICS: Final = "ultralytics"
ULTRALYTICS_SCRIPT: Final = PACKAGE.parent / "tests" / "peers" / "ultralytics_bench.py"
"""Present only in a checkout: it imports AGPL code, so it is no part of the package and never in a wheel."""
_COARSE: Final = 8
_DEMO: Final = "sam_demo"
_SHOWN: Final = (
    "family", "seeded", "size_bytes", "parameters", "gflops", "prompt_gflops", "precision", "verdict", "empty",
)  # fmt: skip
"""Facts of a `PreparedModel` that its row shows."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A model to measure in its own process.

    Attributes:
        row: The facts known before it runs.
        command: Program and arguments of its process.
        opening: The request to load it.
        prepared: The prepared model of samedge; None for a peer.
    """

    row: ModelRow
    command: tuple[str, ...]
    opening: OpenRequest
    prepared: PreparedModel | None = None


def find_contenders(
    options: BenchOptions, prompts: Prompts, artefacts: Artefacts, say: Callable[[str], None]
) -> Iterator[tuple[Contender | ModelRow, ...]]:
    """Yield, for each model, its contender and those of its peers; a skipped row replaces one that cannot be opened.

    Raises:
        UsageError: A model is unknown, or a peer has the name of a built-in one.
    """
    own_peers = {peer for family in families() for peer in family.peers}
    for name in options.peer_commands:
        if name in own_peers:
            raise UsageError(f"{name!r} is a built-in peer of --peers", where="--peer", cure="Choose another name")
    for source in model_sources(options.models):
        say(f"Preparing {source.name}")
        try:
            own = _own(source, options, prompts)
        except UsageError:
            raise
        except SamedgeError as error:
            yield (ModelRow(name=source.name, source=source.source, seeded=source.seeded, skipped=str(error)),)
            continue
        say(f"Preparing the peers of {source.name}")
        yield (own, *_peers(own, options, artefacts))


def _own(source: ModelSource, options: BenchOptions, prompts: Prompts) -> Contender:
    shared: dict[str, Any] = {"backend": options.backend, "device": options.device, "threads": options.threads}
    described = call_in_child(f"{__name__}:prepare", {"source": source.source, **shared})
    prepared = msgspec.convert(described, PreparedModel)
    opening = OpenRequest(
        name=source.name,
        family=prepared.family,
        architecture=prepared.architecture,
        source=source.source,
        artefact=prepared.artefact,
        image_size=prepared.image_size,
        images=options.images,
        points=prompts.points,
        boxes=prompts.boxes,
        everything=_everything(source, prepared, options),
        mode=options.mode,
        **shared,
    )
    return Contender(_known_row(source, prepared, opening), (*_SERVE, "samedge"), opening, prepared)


def _everything(source: ModelSource, prepared: PreparedModel, options: BenchOptions) -> dict[str, Any]:
    if not prepared.grid or not options.wants("everything"):
        return {}
    parameters: dict[str, Any] = {"points_per_side": options.everything_points}
    if prepared.seeded:
        arguments = {
            "bundle": prepared.artefact,
            "image": options.images[0],
            "threads": options.threads,
            "points_per_side": min(_COARSE, options.everything_points),
        }
        parameters |= call_in_child("samedge.benchmarks.measure.thresholds:seeded_thresholds", arguments)
    elif source.source == _DEMO:
        parameters |= DEMO_THRESHOLDS
    return parameters


def _known_row(source: ModelSource, prepared: PreparedModel, opening: OpenRequest) -> ModelRow:
    notes = []
    if prepared.seeded:
        notes.append(f"random weights of the same architecture ({source.note or 'seeded'})")
    if opening.everything:
        shown = ", ".join(f"{name} {value}" for name, value in opening.everything.items())
        notes.append(f"everything: {opening.mode} mode, {shown}")
    return ModelRow(
        name=source.name,
        source=source.source,
        outputs=prepared.artefact,
        notes=tuple(notes),
        **{name: getattr(prepared, name) for name in _SHOWN},
    )


def _peers(own: Contender, options: BenchOptions, artefacts: Artefacts) -> Iterator[Contender | ModelRow]:
    if options.peers:
        for name in model_family(own.opening.artefact).peers:
            yield _prepared_peer(own, name, (*_SERVE, name), artefacts)
    commands = dict(options.peer_commands)
    if options.peers and ULTRALYTICS not in commands:
        if ULTRALYTICS_SCRIPT.is_file():
            commands[ULTRALYTICS] = (sys.executable, str(ULTRALYTICS_SCRIPT))
        else:
            why = (
                "its script is not part of this package (AGPL): give --peer 'ultralytics=python "
                "tests/peers/ultralytics_bench.py' with the file from the repository"
            )
            yield replace(_peer_row(own, ULTRALYTICS), skipped=why)
    for name, command in commands.items():
        yield _prepared_peer(own, name, tuple(command), artefacts)


def _peer_row(own: Contender, name: str) -> ModelRow:
    return ModelRow(
        name=f"{own.row.name}: {name}",
        source=own.row.source,
        family=own.row.family,
        seeded=own.row.seeded,
        peer_of=own.row.name,
    )


def _prepared_peer(own: Contender, name: str, command: tuple[str, ...], artefacts: Artefacts) -> Contender | ModelRow:
    row = _peer_row(own, name)
    checkpoint = own.prepared.checkpoint if own.prepared else ""
    if not checkpoint:
        return replace(row, skipped="peers run checkpoints, not bundles or graphs: give the checkpoint instead")
    opening = replace(own.opening, name=row.name, source=checkpoint)
    try:
        if name == PLAIN:
            plain = str(artefacts.plain_encoder(checkpoint, opening.image_size))
            opening = replace(opening, plain=plain, plain_decoder=str(artefacts.meta_decoder(checkpoint)))
        elif command[:3] != _SERVE:
            opening = replace(opening, weights=str(_peer_weights(checkpoint, artefacts)))
    except SamedgeError as error:
        return replace(row, skipped=str(error))
    return Contender(row, command, opening)


def _peer_weights(source: str, artefacts: Artefacts) -> Path:
    """Return a file that torch can read: the checkpoint itself, or one written from random weights."""
    return artefacts.seeded_file(source) if source.startswith(SEEDED) else find_checkpoint(source)


def prepare(source: str, backend: str, device: str | None, threads: int | None) -> dict[str, Any]:
    """Return a `PreparedModel` as JSON values; first export the model and choose the backend of "auto", if needed.

    Runs in a child process, which may import torch; the measured processes must not.
    """
    if Path(source).suffix.lower() in GRAPH_SUFFIXES and not is_bundle(source):
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
