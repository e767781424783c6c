"""From the bundle of a SAM to its predictor."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass

from samedge.api.load import Place, decide_place, open_main
from samedge.bundle.archive import Bundle
from samedge.bundle.engines import EngineSet
from samedge.bundle.manifest import SPLIT_ROLES, GraphRecord, GraphRole
from samedge.engines.protocol import Engine
from samedge.engines.registry import AUTO, open_engine
from samedge.errors import IntegrityError, SamedgeError
from samedge.runtime.decoder.decoders import Decoder, SplitDecoder, WholeDecoder, first_click
from samedge.runtime.decoder.schemes import check_graph
from samedge.runtime.predictor import Predictor


class SamOpener:
    """The `samedge.api.load.FamilyOpener` of SAM."""

    def open_graphs(self, opened: Bundle, place: Place, aside: Executor) -> Predictor:
        """See `FamilyOpener`: the decoder is opened while the encoder is."""
        with ExitStack() as stack:
            predictor = Predictor(opened.manifest, *_open_graphs(opened, place, aside, stack))
            stack.pop_all()
        return predictor

    def from_engines(self, opened: Bundle, found: EngineSet, engines: Mapping[GraphRole, Engine]) -> Predictor:
        """See `FamilyOpener`: no more prompts at once than the decoder's engine takes."""
        predictor = Predictor(opened.manifest, engines["encoder"], engines["decoder"])
        most = found.decoder.key.profiles.get("prompts", "").rpartition("/")[2]
        if most.isdecimal():
            predictor.prompts_per_call = min(predictor.prompts_per_call, int(most))
        return predictor


def _open_graphs(opened: Bundle, place: Place, aside: Executor, stack: ExitStack) -> tuple[Engine, Decoder]:
    """Open the encoder, and meanwhile the decoder; that is opened again if the encoder got another place.

    Args:
        opened: The bundle.
        place: Where; what the backend chooses for the encoder holds for the decoder.
        aside: Where the decoder is opened. Opening a graph keeps one processor core busy, and the encoder's takes
            longer than all else together: more than one thread beside would slow it down.
        stack: Closes what was opened if a later step fails.
    """
    side, threads = opened.manifest.input.image_size, place.threads
    decision = decide_place(opened, place, (side, side))
    likely = (place.backend, place.device) if decision is None else (decision.backend, decision.device)
    early = None if likely[0] == AUTO else aside.submit(_open_decoder, opened, *likely, threads)
    try:
        encoder = open_main(opened, place, decision)
        stack.callback(encoder.close)
        check_graph(opened.manifest.graph("encoder"), encoder)
    except SamedgeError:
        if early is not None and early.exception() is None:
            early.result().decoder.close()
        raise
    moved = decision is not None and encoder.backend != decision.backend
    # Where the encoder is not, that the decoder could not be opened says nothing.
    usable = early is not None and not (moved and early.exception() is not None)
    found = early.result() if early is not None and usable else None
    if found is not None and (found.backend, found.device) != (encoder.backend, encoder.device):
        found.decoder.close()
        found = None
    if found is None:
        found = _open_decoder(opened, encoder.backend, encoder.device, threads)
    stack.callback(found.decoder.close)
    return encoder, found.decoder


@dataclass(frozen=True, slots=True)
class _OpenDecoder:
    """A decoder, and where it is."""

    decoder: Decoder
    backend: str
    device: str


def _open_decoder(opened: Bundle, backend: str, device: str | None, threads: int | None) -> _OpenDecoder:
    """Open the decoder, split if the bundle has it so, and whole only when needed; asks it for a first click."""
    manifest = opened.manifest

    def graph(role: GraphRole, backend: str, device: str | None) -> Engine:
        engine = open_engine(opened.graph_path(role), backend=backend, device=device, threads=threads)
        return _checked(manifest.graph(role), engine)

    def whole(engine: Engine) -> WholeDecoder:
        return WholeDecoder(engine, manifest.io, manifest.input.image_size)

    split = manifest.io == "native" and manifest.has(*SPLIT_ROLES)
    with ExitStack() as stack:
        first, *rest = SPLIT_ROLES if split else ("decoder",)
        parts = [graph(first, backend, device)]
        stack.callback(parts[0].close)
        place = (parts[0].backend, parts[0].device)
        for role in rest:
            parts.append(graph(role, *place))
            stack.callback(parts[-1].close)
        decoder: Decoder
        if split:
            context, prompts, masks = parts
            decoder = SplitDecoder(context, prompts, masks, lambda: whole(graph("decoder", *place)))
        else:
            decoder = whole(parts[0])
        first_click(decoder)
        stack.pop_all()
    return _OpenDecoder(decoder, *place)


def _checked(record: GraphRecord, engine: Engine) -> Engine:
    """Return an open graph, which is closed if it is another than the manifest says."""
    try:
        check_graph(record, engine)
    except IntegrityError:
        engine.close()
        raise
    return engine
