"""ONNX graphs through onnxruntime: on the CPU, and on any accelerator that the installed wheel brings.

A device that was named is used or is an error. onnxruntime itself would fall back to the CPU with a log line at most;
here the session is asked what it really got. The home of onnxruntime in this package; knows nothing of SAM.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from samedge.engines.cores import usable_cores
from samedge.engines.device_array import DeviceArray
from samedge.engines.dlpack import Exporter
from samedge.engines.ort_binding import OrtBinding
from samedge.engines.ort_dtypes import ORT_DTYPES
from samedge.engines.ort_staged import OrtStaged, OwnStream, open_stream
from samedge.engines.protocol import Availability, EngineOptions
from samedge.errors import BackendUnavailableError, DeviceUnavailableError, EngineError, SamedgeError
from samedge.types import Array, TensorSpec

_CPU: Final = "CPUExecutionProvider"
_CUDA: Final = "CUDAExecutionProvider"
_TENSORRT: Final = "TensorrtExecutionProvider"

_PROVIDERS: Final = {
    "tensorrt": _TENSORRT,
    "cuda": _CUDA,
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "dml": "DmlExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": _CPU,
}
_WHEELS: Final = {
    _TENSORRT: "onnxruntime-gpu",
    _CUDA: "onnxruntime-gpu",
    "ROCMExecutionProvider": "onnxruntime-rocm",
    "MIGraphXExecutionProvider": "onnxruntime-migraphx",
    "DmlExecutionProvider": "onnxruntime-directml",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "QNNExecutionProvider": "onnxruntime-qnn",
}
_BOUND: Final = {_TENSORRT: "cuda:{}", _CUDA: "cuda:{}"}
"""Providers whose inputs and outputs are bound to memory of a device, and how that is called."""
_INDEXED: Final = (_TENSORRT, _CUDA, "ROCMExecutionProvider", "MIGraphXExecutionProvider", "DmlExecutionProvider")
_RECORD_PLACEMENT: Final = "session.record_ep_graph_assignment_info"
# One Identity node, serialised. An accelerator that cannot even open this is not to be had, whatever the real graph is.
_IDENTITY: Final = (
    b'\x08\x07:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


@dataclass(frozen=True, slots=True)
class _Target:
    """A device as onnxruntime knows it. `name` is what reports call it: "cpu", "cuda:0"."""

    name: str
    provider: str
    index: int

    def providers(self, own: OwnStream | None = None) -> list[str | tuple[str, dict[str, str]]]:
        """The list for a session, on that stream if there is one. The CPU is last, for nodes without another kernel."""
        if self.provider == _CPU:
            return [_CPU]
        options: dict[str, str] = {}
        if self.provider in _INDEXED:
            options["device_id"] = str(self.index)
        if self.provider == _CUDA:
            # The exhaustive search of convolutions makes the first call of every new shape take seconds, and arena
            # blocks that double hold memory that a board shares with its CPU.
            options |= {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
            options |= {} if own is None else own.provider_options()
        chain: list[str | tuple[str, dict[str, str]]] = [(self.provider, options)]
        if self.provider == _TENSORRT:
            chain.append((_CUDA, {"device_id": str(self.index)}))
        return [*chain, _CPU]


class OrtEngine:
    """One ONNX graph in one onnxruntime session.

    External data is found beside the graph file.

    Args:
        path: The ONNX file.
        options: Device and threads. Devices: "cpu", "cuda", "tensorrt", "rocm", "migraphx" and "dml" (or "directml")
            with an optional index as in "cuda:1", "openvino", "coreml", or the full name of an execution provider.
            None takes CUDA where it works and the CPU elsewhere.
        profile: Beginning of the path of a file that says what each node took; None for none.

    Raises:
        BackendUnavailableError: onnxruntime is not installed.
        DeviceUnavailableError: The device cannot be had.
        EngineError: The graph cannot be opened.
    """

    def __init__(self, path: Path, options: EngineOptions, *, profile: Path | None = None) -> None:
        found = self.probe()
        if not found.ok:
            raise BackendUnavailableError(found.reason, cure=found.cure)
        ort = import_module("onnxruntime")
        target = _default_target(ort) if options.device is None else _parse_device(options.device)
        if options.device is not None:
            _require(ort, target)
        threads = options.threads or usable_cores()
        self._where = path.name
        with _foreign_errors(self._where, f"onnxruntime {ort.__version__} cannot open this graph"):
            self._session, self._binding, copies = _bound_session(ort, str(path), target, threads, profile)
        self._device = target.name
        try:
            self._inputs = {node.name: _spec(node, self._where) for node in self._session.get_inputs()}
            self._outputs = {node.name: _spec(node, self._where) for node in self._session.get_outputs()}
        except BaseException:
            self.close()
            raise
        self._details = {
            "onnxruntime": str(ort.__version__),
            "providers": ", ".join(self._session.get_providers()),
            "threads": str(threads),
            **({} if target.provider == _CPU else {"nodes on the cpu": _placement(self._session)}),
            **({} if self._binding is None else {"copies to the host": copies}),
        }

    @staticmethod
    def probe() -> Availability:
        """Whether onnxruntime is installed, and the devices that this build of it knows."""
        cure = "Install it with: pip install 'samedge[cpu]' (or 'samedge[cuda]' for an NVIDIA GPU)"
        try:
            ort = import_module("onnxruntime")
        except ModuleNotFoundError:
            return Availability(False, "onnxruntime is not installed", cure)
        except (ImportError, OSError) as error:
            return Availability(False, f"onnxruntime is installed and cannot be imported: {error}", _reinstall_cure())
        if not hasattr(ort, "InferenceSession"):
            # What is left when one of two wheels that share the folder was uninstalled.
            return Availability(False, "the installation of onnxruntime is broken", _reinstall_cure())
        known = ort.get_available_providers()
        devices = tuple(name for name, provider in _PROVIDERS.items() if provider in known and name != "directml")
        version = str(ort.__version__)
        return Availability(True, f"onnxruntime {version} with {', '.join(devices)}", devices=devices, version=version)

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Input name to shape and dtype."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Output name to shape and dtype."""
        return self._outputs

    @property
    def device(self) -> str:
        """The device really used."""
        return self._device

    @property
    def details(self) -> Mapping[str, str]:
        """Version, threads, and the providers in order: nodes that the first lacks run on those after it."""
        return self._details

    @property
    def keeps_on_device(self) -> bool:
        """Whether it computes on a GPU of NVIDIA, where results can stay."""
        return self._binding is not None

    @property
    def array_device(self) -> str:
        """Where its arrays lie."""
        return self._device if self._binding is None else self._binding.device

    @property
    def axis_limits(self) -> Mapping[str, tuple[int, int]]:
        """None: graphs take any sizes."""
        return {}

    def run(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, Array]:
        """Runs the graph.

        Raises:
            EngineError: onnxruntime failed.
        """
        with _foreign_errors(self._where, "onnxruntime failed while running this graph"):
            if self._binding is not None:
                return self._binding.run(feeds, outputs)
            results = self._session.run(list(outputs), dict(feeds))
        return dict(zip(outputs, results, strict=True))

    def end_profiling(self) -> Path:
        """Writes what each node took in each run so far, and returns where; for an engine with a profile."""
        return Path(self._session.end_profiling())

    def run_on_device(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, DeviceArray]:
        """Runs the graph and leaves outputs on the GPU; they are complete.

        Raises:
            EngineError: onnxruntime failed, or does not run on a GPU here.
        """
        with _foreign_errors(self._where, "onnxruntime failed while running this graph"):
            return self._bound().run_on_device(feeds, outputs)

    def to_device(self, array: Array) -> DeviceArray:
        """Returns a copy of an array of the host on the GPU.

        Raises:
            EngineError: onnxruntime failed, or does not run on a GPU here.
        """
        with _foreign_errors(self._where, "onnxruntime cannot bring this array to the GPU"):
            return self._bound().to_device(array)

    def borrow(self, exporter: Exporter) -> DeviceArray:
        """Returns an array over memory of another library on this GPU.

        Raises:
            EngineError: onnxruntime does not run on a GPU here.
            MissingExtraError: The CUDA bindings are not installed.
        """
        return self._bound().borrow(exporter)

    def _bound(self) -> OrtBinding | OrtStaged:
        if self._binding is None:
            raise EngineError("this engine computes on the host", where=self._where)
        return self._binding

    def close(self) -> None:
        """Frees the session; arrays on the device keep it until they are gone."""
        self._session = None  # first: it works on the binding's stream
        if self._binding is not None:
            self._binding.close()


def _bound_session(
    ort: Any, graph: str, target: _Target, threads: int, profile: Path | None
) -> tuple[Any, OrtBinding | OrtStaged | None, str]:
    """Opens a session on the target, which gets it; returns it, its memory there, and how that is copied to the host.

    Raises:
        DeviceUnavailableError: The session did not get the target.
        EngineError: CUDA failed.
    """
    own: OwnStream | str = "this provider works on a stream of its own"
    if target.provider == _CUDA:
        own = open_stream(target.name)
    if isinstance(own, OwnStream):
        found = _staged_session(ort, graph, target, threads, profile, own)
        if found is not None:
            return found
        own = f"onnxruntime {ort.__version__} takes no stream"
    session = _session(ort, graph, target, threads, profile)
    _require_obtained(session, target)
    if target.provider not in _BOUND:
        return session, None, ""
    return session, OrtBinding(ort, session, _BOUND[target.provider].format(target.index)), f"pageable: {own}"


def _staged_session(
    ort: Any, graph: str, target: _Target, threads: int, profile: Path | None, own: OwnStream
) -> tuple[Any, OrtStaged, str] | None:
    """Opens a session on a stream of ours; None where this onnxruntime does not take it, and the stream is closed."""
    try:
        session = _session(ort, graph, target, threads, profile, own)
        _require_obtained(session, target)
        if own.taken_by(session, target.provider):
            everything = set(_nodes_by_provider(session)) == {target.provider}
            waits = "" if everything else "; the host waits for each run, because nodes are or may be on the cpu"
            staged = OrtStaged(ort, session, own, all_on_gpu=everything)
            return session, staged, f"pinned, through {own.memory.provider}{waits}"
    except BaseException as error:
        own.close()
        if "user_compute_stream" not in str(error):
            raise
        return None
    del session
    own.close()
    return None


def _session(
    ort: Any,
    graph: str | bytes,
    target: _Target,
    threads: int,
    profile: Path | None = None,
    own: OwnStream | None = None,
) -> Any:
    """Opens a session on the target; its providers are still to be checked.

    The settings are for a box that does other work as well; ``docs/backends.md`` lists them with what they cost.
    """
    options = ort.SessionOptions()
    # A number of threads that is given, unlike onnxruntime's own, comes without binding them to cores: those of two
    # sessions, or of two programs, would share the first ones.
    options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    options.inter_op_num_threads = 1  # SAM's graphs are chains: there is nothing to run side by side
    # Threads that spin make the decoder's many small steps quick; between two calls they would only heat the board.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # The arena keeps what a run took for the next one. Without it every step asks the system anew: the encoder of ViT-B
    # takes 1.7 times the CPU time, and peaks at 1087 MB instead of 825. To give it back after each run (225 MB there)
    # costs every run 3 %, and leaves the peak as it is.
    options.enable_cpu_mem_arena = True
    # The pattern of the first run becomes one block that the second run allocates beside what the arena already holds:
    # without it the encoders of ViT-B and MobileSAM peak at 813 and 318 MB instead of 1010 and 486.
    options.enable_mem_pattern = False
    if target.provider != _CPU:
        options.add_session_config_entry(_RECORD_PLACEMENT, "1")
    options.log_severity_level = 4  # what goes wrong is raised as well: nothing to add on stderr
    # Without `enable_fallback=0` the session prints to stdout and goes on with the CPU.
    return ort.InferenceSession(graph, options, providers=target.providers(own), enable_fallback=0)


def _parse_device(device: str) -> _Target:
    name, colon, number = device.partition(":")
    provider = name if name.endswith("ExecutionProvider") else _PROVIDERS.get(name.lower())
    if provider is None or (colon and not number.isdecimal()):
        raise DeviceUnavailableError(
            f"onnxruntime knows no device {device!r}",
            cure=f"Choose one of {', '.join(_PROVIDERS)}, with a number as in cuda:1 where there are several",
            device=device,
        )
    if colon and provider not in _INDEXED:
        raise DeviceUnavailableError(
            f"onnxruntime's device {name!r} takes no number", where=device, cure=f"Ask for {name!r}", device=device
        )
    index = int(number) if colon else 0
    short = {"directml": "dml"}.get(name.lower(), name if provider == name else name.lower())
    return _Target(f"{short}:{index}" if provider in _INDEXED else short, provider, index)


def _default_target(ort: Any) -> _Target:
    """CUDA where it works, the CPU elsewhere: nobody named a device, so taking the CPU breaks no promise."""
    with contextlib.suppress(DeviceUnavailableError):
        cuda = _parse_device("cuda")
        if _CUDA in ort.get_available_providers():
            _require(ort, cuda)
            return cuda
    return _parse_device("cpu")


def _require(ort: Any, target: _Target) -> None:
    """Opens a tiny graph on the target, and compares the session's first provider with the one that was asked for.

    Raises:
        DeviceUnavailableError: With the cause and the fix.
    """
    if target.provider not in ort.get_available_providers():
        raise DeviceUnavailableError(
            f"the device {target.name!r} cannot be had: the installed onnxruntime {ort.__version__} was built without "
            f"{target.provider}{_double_install()}",
            cure=_wheel_cure(target.provider),
            device=target.name,
            available=tuple(ort.get_available_providers()),
        )
    if target.provider == _CPU:
        return
    causes = [_preload(ort)] if target.provider in (_CUDA, _TENSORRT) else []
    got: list[str] = []
    try:
        got = _session(ort, _IDENTITY, target, 1).get_providers()
    except Exception as error:  # noqa: BLE001 - onnxruntime's classes have no base of their own
        causes.insert(0, _first_line(error))
    if got[:1] == [target.provider]:
        return
    causes.append(_library_cause(ort, target.provider))
    cause = "; ".join(cause for cause in causes if cause) or "onnxruntime did not say why"
    raise DeviceUnavailableError(
        f"the device {target.name!r} cannot be had: {cause}{_double_install()}",
        cure="Install the driver and the libraries that this build of onnxruntime needs "
        "(https://onnxruntime.ai/docs/execution-providers), or ask for device 'cpu'",
        device=target.name,
        available=tuple(got),
    )


def _require_obtained(session: Any, target: _Target) -> None:
    """Asks the session of the real graph what it got, and whether any of the graph runs there.

    Raises:
        DeviceUnavailableError: Not what was asked for.
    """
    got = session.get_providers()
    counts = {} if target.provider == _CPU else _nodes_by_provider(session)
    nothing = set(counts) == {_CPU}
    if got[:1] == [target.provider] and not nothing:
        return
    what = "has no kernel for any node of this graph" if nothing else f"gave way to {', '.join(got)}"
    raise DeviceUnavailableError(
        f"the device {target.name!r} cannot be had: {target.provider} {what}",
        cure="Update onnxruntime, export the checkpoint with a lower opset, or ask for device 'cpu'",
        device=target.name,
        available=tuple(got),
    )


def _placement(session: Any) -> str:
    """Says how many nodes run on the CPU although the session runs elsewhere."""
    counts = _nodes_by_provider(session)
    if not counts:
        return "not told by this onnxruntime"
    return f"{counts.get(_CPU, 0)} of {sum(counts.values())}"


def _nodes_by_provider(session: Any) -> dict[str, int]:
    """Counts the nodes of each provider; empty where onnxruntime is too old to tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts


def _preload(ort: Any) -> str:
    """Loads CUDA's libraries from pip's wheels; returns what onnxruntime prints when it does not find them."""
    printed = io.StringIO()
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(printed):
            ort.preload_dlls()
    return " ".join(printed.getvalue().split())[:300]


def _library_cause(ort: Any, provider: str) -> str:
    """What the system's loader says of the provider's library: it names the one that is missing."""
    name = provider.removesuffix("ExecutionProvider").lower()
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"
    if not library.is_file():
        return ""
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return ""


def _installed_wheels() -> list[str]:
    wheels: list[str] = []
    for wheel in sorted({"onnxruntime", *_WHEELS.values()}):
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.version(wheel)
            wheels.append(wheel)
    return wheels


def _double_install() -> str:
    wheels = _installed_wheels()
    return f" ({' and '.join(wheels)} are installed together and overwrite each other)" if len(wheels) > 1 else ""


def _reinstall_cure() -> str:
    wheels = _installed_wheels() or ["onnxruntime"]
    return f"Reinstall it: pip uninstall -y {' '.join(wheels)} && pip install {wheels[-1]}"


def _wheel_cure(provider: str) -> str:
    wheel = _WHEELS.get(provider)
    if provider in (_CUDA, _TENSORRT) and platform.machine() == "aarch64":
        return (
            "Install the onnxruntime-gpu wheel that NVIDIA builds for this board's JetPack "
            "(https://elinux.org/Jetson_Zoo), or ask for device 'cpu'"
        )
    if wheel is None:
        return "Install a build of onnxruntime that has it, or ask for device 'cpu'"
    installed = " ".join(_installed_wheels()) or "onnxruntime"
    return f"Run: pip uninstall -y {installed} && pip install {wheel}, or ask for device 'cpu'"


def _spec(node: Any, where: str) -> TensorSpec:
    dtype = ORT_DTYPES.get(node.type)
    if dtype is None:
        raise EngineError(
            f"{node.name!r} is a {node.type}, which has no numpy dtype", where=where, cure="Export a graph of tensors"
        )
    # An axis without a name gets one of its own, so that two of them are never taken for the same.
    shape = tuple(axis if isinstance(axis, int) else axis or f"{node.name}.{at}" for at, axis in enumerate(node.shape))
    return TensorSpec(shape, np.dtype(dtype))


@contextlib.contextmanager
def _foreign_errors(where: str, what: str) -> Iterator[None]:
    """Turns whatever onnxruntime raises inside the block into an `EngineError` with a cure."""
    try:
        yield
    except SamedgeError:
        raise
    except Exception as error:
        cause = _first_line(error)
        cures = (
            ("alloc", "There is not enough memory: close other programs, or take a smaller model or precision"),
            ("external", "A file with weights that belongs beside the graph is missing or damaged: copy it again"),
            ("Protobuf", "The file is truncated or not an ONNX graph: copy it again, or export the checkpoint again"),
            ("opset", "Update onnxruntime, or export the checkpoint with a lower opset"),
            ("IR version", "Update onnxruntime, or export the checkpoint with a lower opset"),
            ("NOT_IMPLEMENTED", "The graph has an operator that this build lacks: update onnxruntime"),
        )
        cure = next((cure for sign, cure in cures if sign.lower() in cause.lower()), "Export the checkpoint again")
        raise EngineError(f"{what} ({cause})", where=where, cure=cure, kind=type(error).__name__) from error


def _first_line(error: Exception) -> str:
    """The cause as one short line, without onnxruntime's prefix."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[ONNXRuntimeError\] : (\d+ : )?", "", lines[0])[:300]
