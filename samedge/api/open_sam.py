"""Opening of SAM bundles."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import ExitStack

from samedge.api.load import Place, decide_place, open_graph, open_main
from samedge.bundle.archive import Bundle
from samedge.bundle.engines import EngineSet
from samedge.bundle.manifest import SPLIT_ROLES, GraphRole
from samedge.engines.protocol import Engine
from samedge.engines.registry import AUTO
from samedge.errors import SamedgeError
from samedge.runtime.decoder.decoders import Decoder, SplitDecoder, WholeDecoder, first_click
from samedge.runtime.predictor import Predictor


class SamOpener:
    """The `samedge.api.load.FamilyOpener` of SAM."""

    def open_graphs(self, opened: Bundle, place: Place, aside: Executor) -> Predictor:
        """See `FamilyOpener`; encoder and decoder are opened at the same time."""
        with ExitStack() as stack:
            predictor = Predictor(opened.manifest, *_open_graphs(opened, place, aside, stack))
            stack.pop_all()
        return predictor

    def from_engines(self, opened: Bundle, found: EngineSet, engines: Mapping[GraphRole, Engine]) -> Predictor:
        """See `FamilyOpener`; the decoder's engine limits the prompts of one call."""
        predictor = Predictor(opened.manifest, engines["encoder"], engines["decoder"])
        most = found.decoder.key.profiles.get("prompts", "").rpartition("/")[2]
        if most.isdecimal():
            predictor.prompts_per_call = min(predictor.prompts_per_call, int(most))
        return predictor


def _open_graphs(opened: Bundle, place: Place, aside: Executor, stack: ExitStack) -> tuple[Engine, Decoder]:
    """Open the encoder, and the decoder meanwhile; open the decoder again if the encoder got another backend or device.

    Args:
        opened: The bundle.
        place: Backend and device; those chosen for the encoder hold for the decoder.
        aside: Opens the decoder. Opening a graph keeps one processor core busy, and the encoder takes longer than
            everything else together: a third thread would only slow it down.
        stack: Closes what was opened if a later step fails.
    """
    side = opened.manifest.input.image_size
    decision = decide_place(opened, place, (side, side))
    likely = place if decision is None else Place(decision.backend, decision.device, place.threads)
    early = None if likely.backend == AUTO else aside.submit(_open_decoder, opened, likely)
    try:
        encoder = open_main(opened, place, decision)
    except SamedgeError:
        if early is not None and early.exception() is None:
            early.result()[0].close()
        raise
    stack.callback(encoder.close)
    final = Place(encoder.backend, encoder.device, place.threads)
    moved = decision is not None and encoder.backend != decision.backend
    # The decoder's failure on a backend that the encoder did not get means nothing.
    if early is not None and not (moved and early.exception() is not None):
        decoder, used = early.result()
        stack.callback(decoder.close)
        if used == final:
            return encoder, decoder
        decoder.close()
    decoder, _ = _open_decoder(opened, final)
    stack.callback(decoder.close)
    return encoder, decoder


def _open_decoder(opened: Bundle, place: Place) -> tuple[Decoder, Place]:
    """Open the decoder and warm it up; return it with the backend and device in use.

    A split decoder is preferred; its whole graph is opened when first needed.
    """
    manifest = opened.manifest

    def whole(engine: Engine) -> WholeDecoder:
        return WholeDecoder(engine, manifest.io, manifest.input.image_size)

    split = manifest.io == "native" and manifest.has(*SPLIT_ROLES)
    with ExitStack() as stack:
        parts: list[Engine] = []
        for role in SPLIT_ROLES if split else ("decoder",):
            engine = open_graph(opened, role, place)
            stack.callback(engine.close)
            if not parts:
                place = Place(engine.backend, engine.device, place.threads)
            parts.append(engine)
        decoder: Decoder
        if split:
            context, prompts, masks = parts
            decoder = SplitDecoder(context, prompts, masks, lambda: whole(open_graph(opened, "decoder", place)))
        else:
            decoder = whole(parts[0])
        first_click(decoder)
        stack.pop_all()
    return decoder, place
