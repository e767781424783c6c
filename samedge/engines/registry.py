"""The table of backends, and how one is chosen and opened.

A backend is one file and one line here: a table of strings, so that nothing is imported before it is asked for, and
type checkers and packaging tools see what there is. Backends from outside are added by `samedge.plugins`. Knows arrays
and nothing of SAM.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from samedge.engines.protocol import Availability, Engine, EngineOptions, RawEngineFactory
from samedge.errors import BackendUnavailableError, EngineError, UsageError
from samedge.plugins import plugged, resolve

AUTO: Final = "auto"


@dataclass(frozen=True, slots=True)
class Backend:
    """One line of the table.

    Attributes:
        name: What users ask for.
        target: "module:class" of the `RawEngineFactory`.
        extra: The extra of this package that installs what the backend needs.
        suffixes: Suffixes of the graph files that it opens.
        aliases: Other names that users may know it by.
        profiler: "module:class" that opens a graph so that it tells what its layers take, see
            `samedge.engines.layer_times`; empty where there is none.
        measured: Kinds of devices that are compared by measuring; those that take minutes to open a graph, or compute
            in another precision than it is written in, have to be asked for.
    """

    name: str
    target: str
    extra: str
    suffixes: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    profiler: str = ""

    def factory(self) -> RawEngineFactory:
        """Import the backend's module and return its class."""
        return cast("RawEngineFactory", resolve(self.target))

    def cure(self, found: Availability) -> str:
        """Return what to do where the backend does not work."""
        return found.cure or f"Install it with: pip install 'samedge[{self.extra}]'"


BACKENDS: Final = (  # order = the preference of "auto"
    Backend(
        "onnxruntime",
        "samedge.engines.onnxruntime.engine:OrtEngine",
        "cpu",
        (".onnx",),
        aliases=("ort",),
        measured=("cuda", "rocm", "dml", "cpu"),
        profiler="samedge.engines.onnxruntime.layers:ProfiledOrtEngine",
    ),
    Backend(
        "openvino",
        "samedge.engines.openvino.engine:OpenVinoEngine",
        "openvino",
        (".onnx", ".xml"),
        aliases=("ov",),
        measured=("gpu", "cpu"),
        profiler="samedge.engines.openvino.layers:ProfiledOpenVinoEngine",
    ),
    Backend(
        "tensorrt",
        "samedge.engines.tensorrt.engine:TensorRtEngine",
        "trt",
        (".engine", ".plan"),
        aliases=("trt",),
        profiler="samedge.engines.tensorrt.layers:ProfiledTensorRtEngine",
    ),
    Backend(
        "tensorrt-rtx",
        "samedge.engines.tensorrt.engine:TensorRtRtxEngine",
        "rtx",
        (".engine", ".plan"),
        aliases=("rtx",),
        profiler="samedge.engines.tensorrt.layers:ProfiledTensorRtRtxEngine",
    ),
)


def known_backends() -> tuple[Backend, ...]:
    """Return the table, and the backends that plug-ins add, which "auto" prefers least."""
    return (*BACKENDS, *plugged(Backend))


def backend_names() -> tuple[str, ...]:
    """Name that `open_engine` takes, in the order that "auto" prefers."""
    return tuple(backend.name for backend in known_backends())


def find_backend(name: str) -> Backend:
    """Return the line of the table with this name or alias, upper or lower case.

    Raises:
        BackendUnavailableError: There is none.
    """
    for backend in known_backends():
        if name.lower() in (backend.name, *backend.aliases):
            return backend
    raise BackendUnavailableError(
        f"there is no backend {name!r}", cure=f"Choose one of: {', '.join((AUTO, *backend_names()))}", backend=name
    )


def availability(name: str) -> Availability:
    """Whether a backend works here and, where it does not, why and what to do.

    Raises:
        BackendUnavailableError: There is no backend of this name.
    """
    return find_backend(name).factory().probe()


def open_engine(path: Path, *, backend: str = AUTO, device: str | None = None, threads: int | None = None) -> Engine:
    """Open a graph file; the engine says which backend and device it got.

    Args:
        path: The graph file.
        backend: A name of `backend_names`, or "auto" for the first that works here and can open the graph on the
            device.
        device: "cpu", "cuda", "cuda:1", or a backend's own name for a device. A device that was named is used or is
            an error. None lets the backend choose.
        threads: CPU threads for one run; None for all physical cores.

    Raises:
        BackendUnavailableError: The backend is not known or not installed, or "auto" found none that is.
        DeviceUnavailableError: The device cannot be had.
        EngineError: The file cannot be opened as a graph.
        UsageError: `threads` is less than 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", cure="Give 1 or more, or leave it out for all physical cores")
    if not path.is_file():
        raise EngineError("there is no such graph file", where=path, cure="Check the path")
    options = EngineOptions(device=device, threads=threads)
    if backend != AUTO:
        return _open(find_backend(backend), path, options)
    candidates = [candidate for candidate in known_backends() if path.suffix in candidate.suffixes]
    if not candidates:
        known = ", ".join(sorted({suffix for candidate in known_backends() for suffix in candidate.suffixes}))
        raise EngineError(f"no backend opens {path.suffix or 'such'} files", where=path, cure=f"They open: {known}")
    missing: list[EngineError] = []
    failures: list[tuple[str, EngineError]] = []
    for candidate in candidates:
        try:
            return _open(candidate, path, options)
        except BackendUnavailableError as error:
            missing.append(error)
        except EngineError as error:
            failures.append((candidate.name, error))
    if not failures:
        raise BackendUnavailableError(
            "no backend is installed that can run this graph",
            where=path,
            cure="; ".join(str(error) for error in missing),
        ) from missing[0]
    first = failures[0][1]
    if len(failures) == 1:
        raise first
    # The first is the backend that would have been used: its kind of error it is.
    reasons = "; ".join(f"{name}: {error.what}" for name, error in failures)
    raise type(first)(
        f"no backend here can open this graph ({reasons})", where=path, cure=first.cure, **first.facts
    ) from first


def require_backend(name: str) -> Backend:
    """Return the line of the table of a backend that works here.

    Raises:
        BackendUnavailableError: There is none, or it does not work here: with the cause and the cure.
    """
    backend = find_backend(name)
    _require(backend)
    return backend


def _open(backend: Backend, path: Path, options: EngineOptions) -> Engine:
    _require(backend)
    return Engine(backend.factory()(path, options), backend=backend.name, name=path.name)


def _require(backend: Backend) -> None:
    found = backend.factory().probe()
    if not found.ok:
        raise BackendUnavailableError(
            f"the backend {backend.name!r} does not work here: {found.reason}",
            cure=backend.cure(found),
            backend=backend.name,
        )


@dataclass(frozen=True, slots=True)
class BackendReport:
    """One backend, as it is here.

    Attributes:
        name: What `samedge.load` takes.
        aliases: Other names that it takes.
        suffixes: Suffixes of the graph files that it opens.
        available: It works here.
        version: Of its runtime; None where it is not installed or does not say.
        devices: The devices that can be asked for.
        reason: Version and devices if it works, otherwise the cause.
        cure: What to install or change; None if it works.
    """

    name: str
    aliases: tuple[str, ...]
    suffixes: tuple[str, ...]
    available: bool
    version: str | None
    devices: tuple[str, ...]
    reason: str
    cure: str | None


def backends() -> tuple[BackendReport, ...]:
    """Return every backend in the order that "auto" prefers; opens no graph."""
    reports: list[BackendReport] = []
    for backend in known_backends():
        found = backend.factory().probe()
        reports.append(
            BackendReport(
                name=backend.name,
                aliases=backend.aliases,
                suffixes=backend.suffixes,
                available=found.ok,
                version=found.version,
                devices=found.devices,
                reason=found.reason,
                cure=None if found.ok else backend.cure(found),
            )
        )
    return tuple(reports)
