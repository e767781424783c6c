"""`samedge.load`: opening a bundle as a predictor, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, overload

from samedge.bundle.archive import Bundle, open_bundle, open_pair
from samedge.bundle.engines import ENGINE_BACKENDS, EngineSet, automatic_pair, failed_pair, require_engines
from samedge.bundle.manifest import ANY_SHAPE, GraphRecord, GraphRole, TensorRecord
from samedge.engines.protocol import Engine
from samedge.engines.registry import AUTO, find_backend, open_engine
from samedge.engines.selection import Decision, decide, open_decided
from samedge.errors import BundleError, EngineError, IntegrityError, SamedgeError, UsageError
from samedge.families import Family
from samedge.parity.verify import parity_of
from samedge.runtime.image.value_range import ValueRange
from samedge.types import TensorSpec

if TYPE_CHECKING:
    from samedge.runtime.predictor import Predictor
    from samedge.runtime.yolo.predictor import YoloPredictor


@dataclass(frozen=True, slots=True)
class Place:
    """Backend, device and threads for graphs.

    Attributes:
        backend: Its name, or "auto".
        device: Its name; None lets the backend choose.
        threads: CPU threads; None for all physical cores.
    """

    backend: str
    device: str | None
    threads: int | None


class ModelPredictor(Protocol):
    """A predictor of any family, whose other methods depend on the family.

    `value_range` gives the values of images that become black and white.
    """

    value_range: ValueRange

    @property
    def backend(self) -> str:
        """The backend that runs the slowest graph."""

    @property
    def device(self) -> str:
        """Device actually used, such as "cpu" or "cuda:0"."""

    def close(self) -> None:
        """Release the graphs."""


class FamilyOpener(Protocol):
    """Opening of one family's graphs or engines as a predictor."""

    def open_graphs(self, opened: Bundle, place: Place, aside: Executor) -> ModelPredictor:
        """Open the graphs of a bundle; `aside` has one thread, since opening a graph keeps one core busy.

        Raises:
            IntegrityError: A graph does not match the manifest.
            EngineError: A graph cannot be opened.
        """

    def from_engines(self, opened: Bundle, found: EngineSet, engines: Mapping[GraphRole, Engine]) -> ModelPredictor:
        """Return a predictor for opened engines, by role, which are closed with it."""


def opener_of(family: Family) -> FamilyOpener:
    """Return the opener of a family's bundles."""
    return cast("FamilyOpener", family.make(family.opener))


@overload
def load(
    bundle: str | os.PathLike[str], backend: str = AUTO, device: str | None = None, *, threads: int | None = None,
    force: bool = False, kind: Literal["sam"], value_range: ValueRange = None,
) -> Predictor: ...  # fmt: skip


@overload
def load(
    bundle: str | os.PathLike[str], backend: str = AUTO, device: str | None = None, *, threads: int | None = None,
    force: bool = False, kind: Literal["yolo"], value_range: ValueRange = None,
) -> YoloPredictor: ...  # fmt: skip


@overload
def load(
    bundle: str | os.PathLike[str], backend: str = AUTO, device: str | None = None, *, threads: int | None = None,
    force: bool = False, kind: str | None = None, value_range: ValueRange = None,
) -> Predictor | Any: ...  # fmt: skip


@overload
def load(
    *, backend: str = AUTO, device: str | None = None, threads: int | None = None, encoder: str | os.PathLike[str],
    decoder: str | os.PathLike[str], value_range: ValueRange = None,
) -> Predictor: ...  # fmt: skip


def load(
    bundle: str | os.PathLike[str] | None = None,
    backend: str = AUTO,
    device: str | None = None,
    *,
    threads: int | None = None,
    force: bool = False,
    kind: str | None = None,
    value_range: ValueRange = None,
    encoder: str | os.PathLike[str] | None = None,
    decoder: str | os.PathLike[str] | None = None,
) -> Predictor | Any:
    """Open a bundle as a predictor, whose `backend` and `device` tell what it runs on.

    Returns:
        A `Predictor` for a SAM, a `YoloPredictor` for a YOLOv8 or FastSAM, another class for other families. Type
        checkers assume the first unless `kind` or `isinstance` says otherwise.

    Args:
        bundle: The folder or ``.samedge`` file that ``samedge export`` wrote; or a folder with the encoder and decoder
            of a SAM, ONNX graphs of any tool (docs/graphs.md).
        backend: "auto" for the fastest that works here, or the name of one. Where there are several, "auto" measures
            them once for each bundle and machine (about 20 s) and keeps the result; see `samedge.kept_decisions`, and
            ``$SAMEDGE_AUTO`` to turn it off. Engines built by ``samedge build`` for this machine take precedence.
            "tensorrt" and "tensorrt-rtx" run only such engines.
        device: "cpu", "cuda", "cuda:1", or a backend-specific name. A named device is used or raises an error. None
            lets the backend choose.
        threads: CPU threads; None for all physical cores.
        force: Load the bundle or engines even if the parity verdict is "failed".
        kind: "sam", "yolo" or the name of another family, to accept no other.
        encoder: In place of `bundle`, the ONNX file of an encoder; needs `decoder`.
        decoder: The ONNX file of its decoder.
        value_range: The values of images that become black and white: a pair, such as (0, 4095) for 12 bits; "full" for
            all that the integer type holds; "image" for the least and greatest of each image. By default, 8, 10, 12, 14
            or 16 bits, the fewest that hold the image's values; see `samedge.runtime.image.value_range.to_uint8`.

    Raises:
        BundleError: It is not a bundle (checkpoints must be exported first), is incomplete, or is of another kind.
        IntegrityError: A file is missing or differs from the manifest.
        ParityError: Its graphs or engines do not reproduce the checkpoint's masks.
        UsageError: This TensorRT lacks an operator of the graph.
        BackendUnavailableError: The backend is unknown or not installed.
        DeviceUnavailableError: The device is unavailable.
        EngineError: A graph cannot be opened, its decoder cannot run, or there are no engines for this machine.
    """
    if encoder is not None and decoder is not None and bundle is None:
        opened = open_pair(encoder, decoder)
    elif bundle is not None and encoder is decoder is None:
        opened = open_bundle(bundle, force=force, weights_later=True)
    else:
        raise UsageError("neither a bundle nor a pair of graphs", cure="Give a bundle, or encoder= and decoder=")
    family = opened.manifest.model_family
    if kind not in (None, family.name):
        name = opened.manifest.model.name
        raise BundleError(f"this is the bundle of a {name}", where=opened.path, cure=f"Open it with {family.opened_by}")
    # Weights of hundreds of megabytes are verified while another core compiles their graph.
    with ThreadPoolExecutor(1, thread_name_prefix="samedge-aside") as aside:
        checking = aside.submit(opened.check_rest)
        try:
            predictor = _open_predictor(opened, Place(backend, device, threads), aside, force=force)
        except SamedgeError:
            checking.result()  # a damaged file explains more than the engine's error
            raise
    if checking.exception() is not None:
        predictor.close()
    checking.result()
    predictor.value_range = value_range
    return predictor


def _open_predictor(opened: Bundle, place: Place, aside: Executor, *, force: bool) -> ModelPredictor:
    """Open engines built for this machine, or else the graphs."""
    if place.backend != AUTO:
        flavour = ENGINE_BACKENDS.get(find_backend(place.backend).name)
        if flavour is not None:
            pair = require_engines(opened, flavour, place.device, force=force)
            return _open_engines(opened, flavour, pair, place.device, force=force)
    elif opened.engine_folders():
        found = automatic_pair(opened, place.device)
        if found is not None:
            # The graphs run everywhere; requested by name, the engines report what is wrong with them.
            with suppress(EngineError, BundleError):
                return _open_engines(opened, *found, place.device, force=False)
    return opener_of(opened.manifest.model_family).open_graphs(opened, place, aside)


def _open_engines(opened: Bundle, backend: str, found: EngineSet, device: str | None, *, force: bool) -> ModelPredictor:
    """Open engines whose key fits, and verify those never verified: they may come from a machine without a GPU.

    Raises:
        ParityError: They do not reproduce the checkpoint's output.
        EngineError: They cannot be opened.
    """
    family = opened.manifest.model_family
    parity = parity_of(family)
    engines: dict[GraphRole, Engine] = {}
    with ExitStack() as stack:
        for role, entry in found.engines.items():
            engines[role] = open_engine(entry.plan, backend=backend, device=device)
            stack.callback(engines[role].close)
        for role, engine in engines.items():
            check_graph(opened.manifest.graph(role), engine)
        if found.verdict == "unchecked" and not force and parity.why_not(opened, backend, found) is None:
            judged = found.judged(parity.verify_engines(opened, found, engines))  # once in the life of an engine
            if judged.verdict == "failed":
                raise failed_pair(opened, judged)
        predictor = opener_of(family).from_engines(opened, found, engines)
        stack.pop_all()
    return predictor


def open_graph(opened: Bundle, role: GraphRole, place: Place) -> Engine:
    """Open a graph on the named backend; raise IntegrityError if the manifest describes another."""
    path = opened.graph_path(role)
    engine = open_engine(path, backend=place.backend, device=place.device, threads=place.threads)
    return _checked(opened, role, engine)


def open_main(opened: Bundle, place: Place, decision: Decision | None) -> Engine:
    """Open the slowest graph on the named backend or the one chosen by `decide_place`, with the same check."""
    role = opened.manifest.model_family.main
    if place.backend != AUTO:
        return open_graph(opened, role, place)
    engine = open_decided(opened.graph_path(role), decision, device=place.device, threads=place.threads)
    return _checked(opened, role, engine)


def _checked(opened: Bundle, role: GraphRole, engine: Engine) -> Engine:
    """Return an open graph, after closing it if it is not the one that the manifest describes."""
    try:
        check_graph(opened.manifest.graph(role), engine)
    except IntegrityError:
        engine.close()
        raise
    return engine


def check_graph(record: GraphRecord, engine: Engine) -> None:
    """Raise IntegrityError if a name, dtype or shape of a graph's inputs and outputs differs from the manifest."""
    _check_ports("input", record.inputs, engine.inputs, engine.name)
    _check_ports("output", record.outputs, engine.outputs, engine.name)


def _check_ports(kind: str, recorded: Mapping[str, TensorRecord], real: Mapping[str, TensorSpec], where: str) -> None:
    cure = "Copy the bundle again, or export the checkpoint again"
    for name in sorted(recorded.keys() | real.keys()):
        if name not in real or name not in recorded:
            owner, other = ("manifest", "graph") if name in recorded else ("graph", "manifest")
            message = f"the {owner} has the {kind} {name!r} but the {other} lacks it"
            raise IntegrityError(message, where=where, cure=cure)
        have, want = real[name], recorded[name]
        if want.shape == ANY_SHAPE:
            continue
        # A size free in only one of them is no contradiction: backends differ in shape inference.
        differs = have.dtype.name != want.dtype or len(have.shape) != len(want.shape)
        sizes = zip(have.shape, want.shape, strict=False)
        if differs or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes):
            axes = ", ".join(map(str, want.shape))
            message = f"the {kind} {name!r} is {have} in the graph but {want.dtype}[{axes}] in the manifest"
            raise IntegrityError(message, where=where, cure=cure)


def decide_place(opened: Bundle, place: Place, size: tuple[int, int]) -> Decision | None:
    """Return the fastest backend for the slowest graph with input of a size (height, width), px.

    None if a backend was requested, or there is no choice.
    """
    if place.backend != AUTO:
        return None
    role = opened.manifest.model_family.main
    return decide(
        opened.graph_path(role),
        sha256=opened.manifest.graph(role).graph.sha256,
        device=place.device,
        threads=place.threads,
        sizes={"height": size[0], "width": size[1]},
    )
