"""`samedge.load`: from a bundle to a predictor, without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, TypeAlias, overload

from samedge.engines.protocol import Engine
from samedge.engines.registry import AUTO, find_backend, open_engine
from samedge.engines.selection import open_fastest
from samedge.errors import BundleError, EngineError, IntegrityError
from samedge.runtime.bundle import Bundle, open_bundle
from samedge.runtime.bundle_engines import (
    ENGINE_BACKENDS,
    EngineSet,
    automatic_pair,
    failed_pair,
    require_pair,
)
from samedge.runtime.decoders import Decoder, SplitDecoder, WholeDecoder
from samedge.runtime.manifest import SPLIT_ROLES, GraphRecord, GraphRole
from samedge.runtime.parity.verify import verify_pair
from samedge.runtime.predictor import Predictor
from samedge.runtime.schemes import check_graph
from samedge.runtime.warm_up import first_click
from samedge.runtime.yolo_loading import load_yolo_engine, yolo_predictor
from samedge.runtime.yolo_predictor import YoloPredictor

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
    """Opens a bundle as a predictor; which backend and device it got is in its `backend` and `device`.

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
    opened = open_bundle(bundle, force=force)
    manifest = opened.manifest
    is_kind: Kind = "sam" if manifest.yolo is None else "yolo"
    if kind not in (None, is_kind):
        cure = "samedge.SAM or samedge.load" if is_kind == "sam" else "samedge.YOLO or samedge.FastSAM"
        raise BundleError(f"this is the bundle of a {manifest.model.name}", where=bundle, cure=f"Open it with {cure}")
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
            pair = require_pair(opened, flavour, device, force=force)
            return open_engines(opened, flavour, pair, device, force=force)
    if is_kind == "yolo":
        return yolo_predictor(opened, _open_main(opened, "yolo", _input_size(opened), backend, device, threads))
    with ExitStack() as stack:
        encoder, decoder = _open_graphs(opened, backend, device, threads, stack)
        predictor = Predictor(manifest, encoder, decoder)
        first_click(decoder)
        stack.pop_all()
    return predictor


def _load_engines(opened: Bundle, backend: str, pair: EngineSet, device: str | None, *, force: bool) -> Predictor:
    """Opens engines whose key fits, and has them judged if nobody did so yet: they may come from a PC without a GPU.

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


def _input_size(opened: Bundle) -> tuple[int, int]:
    """Returns (height, width) of the input, px."""
    side = opened.manifest.input.image_size
    return (side, side) if opened.manifest.yolo is None else opened.manifest.yolo.image_size


def _open_main(
    opened: Bundle, role: GraphRole, size: tuple[int, int], backend: str, device: str | None, threads: int | None
) -> Engine:
    """Opens the graph that takes most of the time: by name, or where it is fastest at this (height, width)."""
    path = opened.graph_path(role)
    if backend != AUTO:
        return open_engine(path, backend=backend, device=device, threads=threads)
    return open_fastest(
        path,
        sha256=opened.manifest.graph(role).graph.sha256,
        device=device,
        threads=threads,
        sizes={"height": size[0], "width": size[1]},
    )


def _open_graphs(
    opened: Bundle, backend: str, device: str | None, threads: int | None, stack: ExitStack
) -> tuple[Engine, Decoder]:
    """Opens the encoder, and where that runs the decoder: split if the bundle has it so, and whole only when needed.

    Args:
        opened: The bundle.
        backend: Its name, or "auto".
        device: Its name; None lets the backend choose, and what it chooses for the encoder holds for the decoder.
        threads: CPU threads.
        stack: Closes what was opened if a later step fails.
    """
    manifest = opened.manifest

    def graph(role: GraphRole, backend: str, device: str) -> Engine:
        engine = open_engine(opened.graph_path(role), backend=backend, device=device, threads=threads)
        return _checked(manifest.graph(role), engine)

    def main() -> Engine:
        engine = _open_main(opened, "encoder", _input_size(opened), backend, device, threads)
        return _checked(manifest.graph("encoder"), engine)

    def whole() -> WholeDecoder:
        return WholeDecoder(graph("decoder", encoder.backend, encoder.device), manifest.io, manifest.input.image_size)

    split = manifest.io == "native" and manifest.has(*SPLIT_ROLES)
    roles: tuple[GraphRole, ...] = SPLIT_ROLES if split else ("decoder",)
    if backend == AUTO or device is None:
        (encoder,) = _open_together([main], stack)
        parts = _open_together([partial(graph, role, encoder.backend, encoder.device) for role in roles], stack)
    else:
        encoder, *parts = _open_together([main, *(partial(graph, role, backend, device) for role in roles)], stack)
    if not split:
        return encoder, WholeDecoder(parts[0], manifest.io, manifest.input.image_size)
    by_role = dict(zip(roles, parts, strict=True))
    context, prompts, masks = (by_role[role] for role in ("decoder_context", "decoder_prompts", "decoder_masks"))
    return encoder, SplitDecoder(context, prompts, masks, whole)


def _checked(record: GraphRecord, engine: Engine) -> Engine:
    """Returns an open graph, which is closed if it is another than the manifest says."""
    try:
        check_graph(record, engine)
    except IntegrityError:
        engine.close()
        raise
    return engine


def _open_together(openers: Sequence[Callable[[], Engine]], stack: ExitStack) -> list[Engine]:
    """Opens several graphs at once, each in a thread: opening one keeps one processor core busy.

    Args:
        openers: Each opens a graph.
        stack: Closes what was opened if a later step fails.

    Raises:
        SamedgeError: The first, in their order, that could not be opened; all others are left to the stack.
    """
    with ThreadPoolExecutor(len(openers), thread_name_prefix="samedge-open") as pool:
        waiting = [pool.submit(opener) for opener in openers]
    for opening in waiting:
        if opening.exception() is None:
            stack.callback(opening.result().close)
    return [opening.result() for opening in waiting]
