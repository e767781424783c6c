"""Contenders: each model of samedge and its peers on the same weights, each in its own process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from samedge.benchmarks.bench.options import BenchOptions, Prompts
from samedge.benchmarks.bench.records import Family, ModelRow
from samedge.benchmarks.bench.sources import ModelSource, model_sources
from samedge.benchmarks.bench.stages.peer_protocol import OpenRequest
from samedge.benchmarks.bench.stages.prepare import PreparedModel
from samedge.benchmarks.measure.artefacts import PACKAGE, Artefacts
from samedge.benchmarks.measure.child import call_in_child
from samedge.benchmarks.measure.thresholds import DEMO_THRESHOLDS
from samedge.errors import SamedgeError, UsageError
from samedge.models.checkpoints.weights import SEEDED

_SERVE: Final = (sys.executable, "-m", "samedge.benchmarks.bench.stages.serve")
OWN_PEERS: Final[dict[str, tuple[Family, ...]]] = {"meta": ("sam",), "plain-onnx": ("sam",)}
"""Peers that this package runs itself, with the families that they support."""
ULTRALYTICS: Final = "ultralytics"
ULTRALYTICS_SCRIPT: Final = PACKAGE.parent / "tests" / "peers" / "ultralytics_bench.py"
"""Present only in a checkout: it imports AGPL code, so it is no part of the package and never in a wheel."""
_COARSE: Final = 8
_DEMO: Final = "sam_demo"


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

    Args:
        options: Options of the measurement.
        prompts: The prompts.
        artefacts: Source of the files that peers need.
        say: Called with progress, because exports take long.

    Raises:
        UsageError: A model is unknown, or a peer has the name of a built-in one.
    """
    for name in options.peer_commands:
        if name in OWN_PEERS:
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
    arguments = {
        "source": source.source,
        "backend": options.backend,
        "device": options.device,
        "threads": options.threads,
    }
    described = call_in_child("samedge.benchmarks.bench.stages.prepare:prepare", arguments)
    prepared = msgspec.convert(described, PreparedModel)
    everything = _everything(source, prepared, options)
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
        everything=everything,
        mode=options.mode,
        threads=options.threads,
        backend=options.backend,
        device=options.device,
    )
    return Contender(_known_row(source, prepared, opening), (*_SERVE, "samedge"), opening, prepared)


def _everything(source: ModelSource, prepared: PreparedModel, options: BenchOptions) -> dict[str, Any]:
    if prepared.family != "sam" or not options.wants("everything"):
        return {}
    parameters: dict[str, Any] = {"points_per_side": options.everything_points}
    if prepared.seeded:
        arguments = {
            "bundle": prepared.artefact, "image": options.images[0], "threads": options.threads,
            "points_per_side": min(_COARSE, options.everything_points),
        }  # fmt: skip
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
        family=prepared.family,
        seeded=prepared.seeded,
        size_bytes=prepared.size_bytes,
        parameters=prepared.parameters,
        gflops=prepared.gflops,
        prompt_gflops=prepared.prompt_gflops,
        precision=prepared.precision,
        verdict=prepared.verdict,
        outputs=prepared.artefact,
        empty=prepared.empty,
        notes=tuple(notes),
    )


def _peers(own: Contender, options: BenchOptions, artefacts: Artefacts) -> Iterator[Contender | ModelRow]:
    if options.peers:
        for name, families in OWN_PEERS.items():
            if own.opening.family in families:
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
            yield replace_skipped(_peer_row(own, ULTRALYTICS), why)
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


def replace_skipped(row: ModelRow, why: str) -> ModelRow:
    """Return a row marked as skipped, with the reason."""
    return msgspec.structs.replace(row, skipped=why)


def _prepared_peer(own: Contender, name: str, command: tuple[str, ...], artefacts: Artefacts) -> Contender | ModelRow:
    row = _peer_row(own, name)
    checkpoint = own.prepared.checkpoint if own.prepared else ""
    if not checkpoint:
        return replace_skipped(row, "peers run checkpoints, not bundles or graphs: give the checkpoint instead")
    opening = msgspec.structs.replace(own.opening, name=row.name, source=checkpoint)
    try:
        if name == "plain-onnx":
            opening = msgspec.structs.replace(
                opening,
                plain=str(artefacts.plain_encoder(checkpoint, opening.image_size)),
                plain_decoder=str(artefacts.meta_decoder(checkpoint)),
            )
        elif name not in OWN_PEERS:
            opening = msgspec.structs.replace(opening, weights=str(_peer_weights(opening, artefacts)))
    except SamedgeError as error:
        return replace_skipped(row, str(error))
    return Contender(row, command, opening)


def _peer_weights(opening: OpenRequest, artefacts: Artefacts) -> Path:
    """Return a file that torch can read: the checkpoint itself, or one written from random weights."""
    if not opening.source.startswith(SEEDED):
        from samedge.models.checkpoints.weights import find_checkpoint

        return find_checkpoint(opening.source)
    return artefacts.seeded_file(opening.source)
