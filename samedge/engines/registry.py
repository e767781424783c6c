"""The table of backends, and the choice and opening of one.

A backend is one file and one line here: a table of strings, so that nothing is imported before it is needed, while type
checkers and packaging tools still see every entry. Backends from outside are added by `samedge.families`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from samedge.engines.protocol import Availability, Engine, EngineOptions, RawEngineFactory
from samedge.errors import BackendUnavailableError, EngineError, UsageError
from samedge.families import plugged, resolve

AUTO: Final = "auto"


@dataclass(frozen=True, slots=True)
class Backend:
    """One line of the table.

    Attributes:
        name: Public name.
        target: "module:class" of the `RawEngineFactory`.
        extra: The extra of this package that installs its runtime.
        suffixes: Suffixes of the graph files that it opens.
        aliases: Other accepted names.
        profiler: "module:class" that opens a graph so that it reports the times of its layers, see
            `samedge.engines.layer_times`; empty where there is none.
        measured: Kinds of devices compared by measurement. Devices that take minutes to open a graph, or that compute
            in another precision than the graph's, must be requested explicitly.
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
        """Return the cure for an unavailable backend."""
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
    """Return the names that `open_engine` accepts, in the order of preference of "auto"."""
    return tuple(backend.name for backend in known_backends())


def find_backend(name: str) -> Backend:
    """Return the backend of this name or alias, ignoring case.

    Raises:
        BackendUnavailableError: There is none.
    """
    for backend in known_backends():
        if name.lower() in (backend.name, *backend.aliases):
            return backend
    raise BackendUnavailableError(
        f"unknown backend {name!r}", cure=f"Choose one of: {', '.join((AUTO, *backend_names()))}", backend=name
    )


def availability(name: str) -> Availability:
    """Report whether a backend works here and, if not, the reason and the cure.

    Raises:
        BackendUnavailableError: There is no backend of this name.
    """
    return find_backend(name).factory().probe()


def open_engine(path: Path, *, backend: str = AUTO, device: str | None = None, threads: int | None = None) -> Engine:
    """Open a graph file; the engine reports the backend and device in use.

    Args:
        path: The graph file.
        backend: A name of `backend_names`, or "auto" for the first that works here and can open the graph on the
            device.
        device: "cpu", "cuda", "cuda:1", or a backend-specific name. A named device is used or raises an error. None
            lets the backend choose.
        threads: CPU threads for one run; None for all physical cores.

    Raises:
        BackendUnavailableError: The backend is unknown or not installed, or "auto" found none.
        DeviceUnavailableError: The device is unavailable.
        EngineError: The file cannot be opened as a graph.
        UsageError: `threads` is less than 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(
            f"invalid number of threads: {threads}", cure="Give 1 or more, or omit it for all physical cores"
        )
    if not path.is_file():
        raise EngineError("graph file not found", where=path, cure="Check the path")
    options = EngineOptions(device=device, threads=threads)
    if backend != AUTO:
        return _open(find_backend(backend), path, options)
    candidates = [candidate for candidate in known_backends() if path.suffix in candidate.suffixes]
    if not candidates:
        known = ", ".join(sorted({suffix for candidate in known_backends() for suffix in candidate.suffixes}))
        raise EngineError(
            f"no backend opens {path.suffix or 'such'} files", where=path, cure=f"Use one of the formats {known}"
        )
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
            "no installed backend can run this graph", where=path, cure="; ".join(str(error) for error in missing)
        ) from missing[0]
    first = failures[0][1]
    if len(failures) == 1:
        raise first
    # The first backend is the preferred one: raise its kind of error.
    reasons = "; ".join(f"{name}: {error.what}" for name, error in failures)
    raise type(first)(
        f"no backend here can open this graph ({reasons})", where=path, cure=first.cure, **first.facts
    ) from first


def require_backend(name: str) -> Backend:
    """Return the backend of this name, which must work here.

    Raises:
        BackendUnavailableError: The name is unknown, or the backend is unavailable; with the cause and a cure.
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
            f"the backend {backend.name!r} is unavailable: {found.reason}",
            cure=backend.cure(found),
            backend=backend.name,
        )


@dataclass(frozen=True, slots=True)
class BackendReport:
    """Availability of one backend on this machine.

    Attributes:
        name: Public name, as in `samedge.load`.
        aliases: Other accepted names.
        suffixes: Suffixes of the graph files that it opens.
        available: True if it works here.
        version: Version of its runtime; None if unknown.
        devices: Selectable devices.
        reason: Version and devices if available, otherwise the cause.
        cure: Action that makes it available; None if it already is.
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
    """Return a report on every backend, in the order of preference of "auto", without opening a graph."""
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
