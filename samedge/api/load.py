"""`samedge.load`: from a bundle to a predictor, without torch."""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

from samedge.bundle.archive import Bundle, open_bundle
from samedge.bundle.engines import (
    ENGINE_BACKENDS,
    EngineSet,
    automatic_pair,
    failed_pair,
    require_engines,
)
from samedge.bundle.manifest import SPLIT_ROLES, GraphRecord, GraphRole
from samedge.engines.protocol import Engine
from samedge.engines.registry import AUTO, find_backend, open_engine
from samedge.engines.selection.choose import decide, open_decided
from samedge.engines.selection.decisions import Decision
from samedge.errors import BundleError, EngineError, IntegrityError, SamedgeError
from samedge.parity.verify import verify_pair
from samedge.parity.yolo_verify import verify_yolo_engine, why_not_comparable, yolo_record
from samedge.runtime.decoder.decoders import Decoder, SplitDecoder, WholeDecoder, first_click
from samedge.runtime.decoder.schemes import check_graph
from samedge.runtime.predictor import Predictor
from samedge.runtime.yolo.graph import describe_yolo, yolo_metadata
from samedge.runtime.yolo.input_limits import InputLimits
from samedge.runtime.yolo.predictor import YoloPredictor

Kind: TypeAlias = Literal["sam", "yolo"]


@overload
def load(
    bundle: str | os.PathLike[str], backend: str = AUTO, device: str | None = None, *, threads: int | None = None,
    force: bool = False, kind: Literal["sam"],
) -> Predictor: ...  # fmt: skip


@overload
def load(
    bundle: str | os.PathLike[str], backend: str = AUTO, device: str | None = None, *, threads: int | None = None,
    force: bool = False, kind: Literal["yolo"],
) -> YoloPredictor: ...  # fmt: skip


@overload
def load(
    bundle: str | os.PathLike[str], backend: str = AUTO, device: str | None = None, *, threads: int | None = None,
    force: bool = False, kind: None = None,
) -> Predictor | Any: ...  # fmt: skip


def load(
    bundle: str | os.PathLike[str],
    backend: str = AUTO,
    device: str | None = None,
    *,
    threads: int | None = None,
    force: bool = False,
    kind: Kind | None = None,
) -> Predictor | Any:
    """Open a bundle as a predictor; which backend and device it got is in its `backend` and `device`.

    Returns:
        A `Predictor` for a SAM, a `YoloPredictor` for a YOLOv8 or FastSAM. A type checker takes it for the first, and
        for what `isinstance` or `kind` says.

    Args:
        bundle: The folder or ``.samedge`` file that ``samedge export`` wrote.
        backend: "auto" for the fastest that works here, or the name of one. Where there are several, "auto" measures
            them once for each bundle and machine (about 20 s) and keeps the result; see `samedge.kept_decisions`, and
            ``$SAMEDGE_AUTO`` to turn it off. Engines that ``samedge build`` made for this machine go first. "tensorrt"
            and "tensorrt-rtx" run such engines only.
        device: "cpu", "cuda", "cuda:1", or a backend's own name for a device. A device that was named is used or is an
            error. None lets the backend choose.
        threads: CPU threads; None for all physical cores.
        force: Load a bundle or engines whose parity verdict is "failed" as well.
        kind: "sam" or "yolo" to take nothing else.

    Raises:
        BundleError: It is not a bundle (a checkpoint has to be exported first), not a whole one, or of another kind.
        IntegrityError: A file is missing, or is not what the manifest says.
        ParityError: Its graphs or engines do not give the checkpoint's masks.
        UsageError: Its graph has an operator that this TensorRT has not.
        BackendUnavailableError: The backend is not known or not installed.
        DeviceUnavailableError: The device cannot be had.
        EngineError: A graph cannot be opened, its decoder cannot run, or there are no engines for this machine.
    """
    opened = open_bundle(bundle, force=force, weights_later=True)
    is_kind = _kind_of(opened)
    if kind not in (None, is_kind):
        cure = "samedge.SAM or samedge.load" if is_kind == "sam" else "samedge.YOLO or samedge.FastSAM"
        name = opened.manifest.model.name
        raise BundleError(f"this is the bundle of a {name}", where=bundle, cure=f"Open it with {cure}")
    # Weights of hundreds of megabytes are compared while another core compiles their graph.
    with ThreadPoolExecutor(1, thread_name_prefix="samedge-aside") as aside:
        checking = aside.submit(opened.check_rest)
        try:
            predictor = _open_predictor(opened, backend, device, threads, aside, force=force)
        except SamedgeError:
            checking.result()  # that a file is damaged says more than what an engine says of it
            raise
    if checking.exception() is not None:
        predictor.close()
    checking.result()
    return predictor


def _kind_of(opened: Bundle) -> Kind:
    return "sam" if opened.manifest.yolo is None else "yolo"


def _open_predictor(
    opened: Bundle, backend: str, device: str | None, threads: int | None, aside: Executor, *, force: bool
) -> Predictor | YoloPredictor:
    """Open engines that were built for this machine, or else the graphs; arguments as for `load`."""
    is_kind = _kind_of(opened)
    open_engines = _load_engines if is_kind == "sam" else load_yolo_engine
    if backend == AUTO:
        found = automatic_pair(opened, device)
        if found is not None:
            try:
                return open_engines(opened, *found, device, force=False)
            except (EngineError, BundleError):
                pass  # the graphs run everywhere; asked for by name, the engines say what is wrong with them
    else:
        flavour = ENGINE_BACKENDS.get(find_backend(backend).name)
        if flavour is not None:
            pair = require_engines(opened, flavour, device, force=force)
            return open_engines(opened, flavour, pair, device, force=force)
    if is_kind == "yolo":
        decision = _decide(opened, "yolo", backend, device, threads)
        return yolo_predictor(opened, _open_main(opened.graph_path("yolo"), backend, decision, device, threads))
    with ExitStack() as stack:
        predictor = Predictor(opened.manifest, *_open_graphs(opened, backend, device, threads, aside, stack))
        stack.pop_all()
    return predictor


def _load_engines(opened: Bundle, backend: str, pair: EngineSet, device: str | None, *, force: bool) -> Predictor:
    """Open engines whose key fits, and has them judged if nobody did so yet: they may come from a PC without a GPU.

    Raises:
        ParityError: They do not give the checkpoint's masks.
        EngineError: They cannot be opened.
    """
    manifest = opened.manifest
    with ExitStack() as stack:
        encoder = open_engine(pair.encoder.plan, backend=backend, device=device)
        stack.callback(encoder.close)
        decoder = open_engine(pair.decoder.plan, backend=backend, device=device)
        stack.callback(decoder.close)
        check_graph(manifest.graph("encoder"), encoder)
        check_graph(manifest.graph("decoder"), decoder)
        if pair.verdict == "unchecked" and not force and manifest.probes is not None and pair.takes_probes:
            judged = pair.judged(verify_pair(opened, pair, encoder, decoder))  # once in the life of an engine
            if judged.verdict == "failed":
                raise failed_pair(opened, judged)
        predictor = Predictor(manifest, encoder, decoder)
        most = pair.prompts_per_call
        if most is not None:
            predictor.prompts_per_call = min(predictor.prompts_per_call, most)
        stack.pop_all()
    return predictor


def _open_main(path: Path, backend: str, decision: Decision | None, device: str | None, threads: int | None) -> Engine:
    """Open the graph that takes most of the time: by name, or where `_decide` says."""
    if backend != AUTO:
        return open_engine(path, backend=backend, device=device, threads=threads)
    return open_decided(path, decision, device=device, threads=threads)


def _decide(opened: Bundle, role: GraphRole, backend: str, device: str | None, threads: int | None) -> Decision | None:
    """Return where that graph is fastest here; None if a backend was named, or nothing is known."""
    if backend != AUTO:
        return None
    manifest = opened.manifest
    side = manifest.input.image_size
    height, width = (side, side) if manifest.yolo is None else manifest.yolo.image_size
    return decide(
        opened.graph_path(role),
        sha256=manifest.graph(role).graph.sha256,
        device=device,
        threads=threads,
        sizes={"height": height, "width": width},
    )


def _open_graphs(
    opened: Bundle, backend: str, device: str | None, threads: int | None, aside: Executor, stack: ExitStack
) -> tuple[Engine, Decoder]:
    """Open the encoder, and meanwhile the decoder; that is opened again if the encoder got another place.

    Args:
        opened: The bundle.
        backend: Its name, or "auto".
        device: Its name; None lets the backend choose, and what it chooses for the encoder holds for the decoder.
        threads: CPU threads.
        aside: Where the decoder is opened. Opening a graph keeps one processor core busy, and the encoder's takes
            longer than all else together: more than one thread beside would slow it down.
        stack: Closes what was opened if a later step fails.
    """
    path = opened.graph_path("encoder")
    decision = _decide(opened, "encoder", backend, device, threads)
    place = (backend, device) if decision is None else (decision.backend, decision.device)
    early = None if place[0] == AUTO else aside.submit(_open_decoder, opened, *place, threads)
    try:
        encoder = _open_main(path, backend, decision, device, threads)
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


def yolo_predictor(opened: Bundle, engine: Engine, limits: InputLimits | None = None) -> YoloPredictor:
    """Return the predictor of an open graph or engine, which is closed if it is another than the manifest says.

    Args:
        opened: The bundle, whose manifest says what the model is.
        engine: Its graph, or an engine that was built from it.
        limits: Which inputs the engine takes; None for all that the graph does.

    Raises:
        BundleError: It is the bundle of another model.
        EngineError: It is no detector and no segmenter.
        IntegrityError: The manifest says something else of the graph.
    """
    try:
        record = yolo_record(opened)
        check_graph(opened.manifest.graph("yolo"), engine)
        told = yolo_metadata(
            dict(enumerate(record.names)),
            record.image_size,
            record.task,
            stride=str(max(record.strides)),
            args=repr({"nms": record.nms is not None}),
        )
        return YoloPredictor(engine, describe_yolo(engine, told), opened.manifest, limits)
    except SamedgeError:
        engine.close()
        raise


def load_yolo_engine(
    opened: Bundle, backend: str, found: EngineSet, device: str | None, *, force: bool
) -> YoloPredictor:
    """Open an engine whose key fits, and has it judged if nobody did so yet and there is something to compare with.

    Args:
        opened: The bundle.
        backend: "tensorrt" or "tensorrt-rtx".
        found: The engine.
        device: The GPU; None for the first.
        force: Open it unjudged.

    Raises:
        ParityError: It does not give the checkpoint's boxes and masks.
        EngineError: It cannot be opened.
    """
    engine = open_engine(found.main.plan, backend=backend, device=device)
    predictor = yolo_predictor(opened, engine, InputLimits.of(found.main.key.profiles))
    try:
        if found.verdict == "unchecked" and not force and why_not_comparable(opened, backend) is None:
            judged = found.judged(verify_yolo_engine(opened, found, engine))  # once in the life of an engine
            if judged.verdict == "failed":
                raise failed_pair(opened, judged)
    except SamedgeError:
        predictor.close()
        raise
    return predictor
