"""ONNX graphs through onnxruntime, on the CPU or any accelerator supported by the installed wheel.

A named device is used or raises an error: onnxruntime would fall back to the CPU with a log line at most, so the
session is asked which provider it obtained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.dlpack import Exporter
from samedge.engines.onnxruntime.binding import ORT_DTYPES, OrtBinding
from samedge.engines.onnxruntime.staged import OrtStaged, OwnStream, open_stream
from samedge.engines.onnxruntime.wheels import (
    CPU,
    CUDA,
    TENSORRT,
    double_install,
    first_line,
    foreign_error,
    library_cause,
    preload_libraries,
    reinstall_cure,
    wheel_cure,
)
from samedge.engines.protocol import Availability, EngineOptions
from samedge.engines.selection import usable_cores
from samedge.errors import BackendUnavailableError, DeviceUnavailableError, EngineError, SamedgeError
from samedge.types import Array, TensorSpec

PROVIDERS: Final = {
    "tensorrt": TENSORRT,
    "cuda": CUDA,
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "dml": "DmlExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": CPU,
}
_INDEXED: Final = (TENSORRT, CUDA, "ROCMExecutionProvider", "MIGraphXExecutionProvider", "DmlExecutionProvider")
BOUND: Final = {TENSORRT: "cuda:{}", CUDA: "cuda:{}"}
"""Providers whose inputs and outputs are bound to device memory, and the name of that device."""
EXACT_INT8: Final = "session.x64quantprecision"
_SHARED_WEIGHT: Final = "replace the existing tensor"
"""In the error of `EXACT_INT8` for int8 weights that several layers read (onnxruntime 1.32, x86 without VNNI)."""
RECORD_PLACEMENT: Final = "session.record_ep_graph_assignment_info"
# One Identity node, serialised. An accelerator that cannot open this is unavailable, whatever the real graph.
IDENTITY: Final = (
    b'\x08\x07:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


class OrtEngine:
    """One ONNX graph in one onnxruntime session.

    External data is read from beside the graph file.

    Args:
        path: The ONNX file.
        options: Device and threads. Devices: "cpu", "cuda", "tensorrt", "rocm", "migraphx" and "dml" (or "directml")
            with an optional index as in "cuda:1", "openvino", "coreml", or the full name of an execution provider.
            None selects CUDA if it works, otherwise the CPU.
        profile: Path prefix of a file for the node timings; None disables profiling.

    Raises:
        BackendUnavailableError: onnxruntime is not installed.
        DeviceUnavailableError: The device is unavailable.
        EngineError: The graph cannot be opened.
    """

    def __init__(self, path: Path, options: EngineOptions, *, profile: Path | None = None) -> None:
        found = self.probe()
        if not found.ok:
            raise BackendUnavailableError(found.reason, cure=found.cure)
        ort = import_module("onnxruntime")
        target = default_target(ort) if options.device is None else parse_device(options.device)
        if options.device is not None:
            require_device(ort, target)
        threads = options.threads or usable_cores()
        self._where = path.name
        try:
            self._session, self._binding, copies = bound_session(ort, str(path), target, threads, profile)
        except SamedgeError:
            raise
        except Exception as error:
            raise foreign_error(error, self._where, f"onnxruntime {ort.__version__} cannot open this graph") from error
        self.device = target.name
        self.keeps_on_device = self._binding is not None
        self.array_device = self.device if self._binding is None else self._binding.device
        self.axis_limits: Mapping[str, tuple[int, int]] = {}  # sizes are unlimited
        try:
            self.inputs = {node.name: _spec(node, self._where) for node in self._session.get_inputs()}
            self.outputs = {node.name: _spec(node, self._where) for node in self._session.get_outputs()}
        except BaseException:
            self.close()
            raise
        self.details = {
            "onnxruntime": str(ort.__version__),
            "providers": ", ".join(self._session.get_providers()),
            "threads": str(threads),
            **({} if target.provider == CPU else {"nodes on the cpu": placement(self._session)}),
            **({} if self._binding is None else {"copies to the host": copies}),
        }

    @staticmethod
    def probe() -> Availability:
        """Report whether onnxruntime is installed, and the devices of this build."""
        cure = "Install it with: pip install 'samedge[cpu]' (or 'samedge[cuda]' for an NVIDIA GPU)"
        try:
            ort = import_module("onnxruntime")
        except ModuleNotFoundError:
            return Availability(False, "onnxruntime is not installed", cure)
        except (ImportError, OSError) as error:
            return Availability(False, f"onnxruntime is installed but cannot be imported: {error}", reinstall_cure())
        if not hasattr(ort, "InferenceSession"):
            # Left behind when one of two wheels sharing the folder is uninstalled.
            return Availability(False, "the installation of onnxruntime is broken", reinstall_cure())
        known = ort.get_available_providers()
        devices = tuple(name for name, provider in PROVIDERS.items() if provider in known and name != "directml")
        version = str(ort.__version__)
        return Availability(True, f"onnxruntime {version} with {', '.join(devices)}", devices=devices, version=version)

    def run(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph."""
        try:
            if self._binding is not None:
                return self._binding.run(feeds, outputs)
            results = self._session.run(list(outputs), dict(feeds))
        except SamedgeError:
            raise
        except Exception as error:
            raise foreign_error(error, self._where, "onnxruntime failed while running this graph") from error
        return dict(zip(outputs, results, strict=True))

    def end_profiling(self) -> Path:
        """Write the node timings of every run so far and return the file's path. Needs `profile`."""
        return Path(self._session.end_profiling())

    def run_on_device(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, DeviceArray]:
        """Run the graph and return its outputs on the GPU, complete."""
        try:
            return self._bound().run_on_device(feeds, outputs)
        except SamedgeError:
            raise
        except Exception as error:
            raise foreign_error(error, self._where, "onnxruntime failed while running this graph") from error

    def to_device(self, array: Array) -> DeviceArray:
        """Copy a host array to the GPU."""
        try:
            return self._bound().to_device(array)
        except SamedgeError:
            raise
        except Exception as error:
            raise foreign_error(error, self._where, "onnxruntime cannot copy this array to the GPU") from error

    def borrow(self, exporter: Exporter) -> DeviceArray:
        """Wrap another library's memory on this GPU as an array."""
        return self._bound().borrow(exporter)

    def _bound(self) -> OrtBinding | OrtStaged:
        if self._binding is None:
            raise EngineError("this engine computes on the host", where=self._where, cure="Open it with device 'cuda'")
        return self._binding

    def close(self) -> None:
        """Release the session; arrays still on the device keep it alive."""
        self._session = None  # first: it uses the binding's stream
        if self._binding is not None:
            self._binding.close()


def _spec(node: Any, where: str) -> TensorSpec:
    dtype = ORT_DTYPES.get(node.type)
    if dtype is None:
        raise EngineError(
            f"{node.name!r} is a {node.type}, which has no numpy dtype", where=where, cure="Export a graph of tensors"
        )
    # An unnamed axis gets a unique name, so that two of them are never treated as one.
    shape = tuple(axis if isinstance(axis, int) else axis or f"{node.name}.{at}" for at, axis in enumerate(node.shape))
    return TensorSpec(shape, np.dtype(dtype))


@dataclass(frozen=True, slots=True)
class Target:
    """An onnxruntime device. `name` is the one used in reports: "cpu", "cuda:0"."""

    name: str
    provider: str
    index: int

    def providers(self, own: OwnStream | None = None) -> list[str | tuple[str, dict[str, str]]]:
        """Return a session's providers, on the given stream if any; the CPU last, for nodes without another kernel."""
        if self.provider == CPU:
            return [CPU]
        options: dict[str, str] = {}
        if self.provider in _INDEXED:
            options["device_id"] = str(self.index)
        if self.provider == CUDA:
            # The exhaustive convolution search makes the first call of every new shape take seconds, and an arena that
            # doubles its blocks holds memory that a board shares with its CPU.
            options |= {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
            options |= {} if own is None else own.provider_options()
        chain: list[str | tuple[str, dict[str, str]]] = [(self.provider, options)]
        if self.provider == TENSORRT:
            chain.append((CUDA, {"device_id": str(self.index)}))
        return [*chain, CPU]


def parse_device(device: str) -> Target:
    """Parse a device name such as "cuda:1"."""
    name, colon, number = device.partition(":")
    provider = name if name.endswith("ExecutionProvider") else PROVIDERS.get(name.lower())
    if provider is None or (colon and not number.isdecimal()):
        raise DeviceUnavailableError(
            f"onnxruntime has no device {device!r}",
            cure=f"Choose one of {', '.join(PROVIDERS)}, with an index such as cuda:1 if there are several",
            device=device,
        )
    if colon and provider not in _INDEXED:
        raise DeviceUnavailableError(
            f"onnxruntime's device {name!r} takes no index", where=device, cure=f"Request {name!r}", device=device
        )
    index = int(number) if colon else 0
    short = {"directml": "dml"}.get(name.lower(), name if provider == name else name.lower())
    return Target(f"{short}:{index}" if provider in _INDEXED else short, provider, index)


def bound_session(
    ort: Any, graph: str, target: Target, threads: int, profile: Path | None
) -> tuple[Any, OrtBinding | OrtStaged | None, str]:
    """Open a session on the target; return it, its bound memory, and how its outputs reach the host."""
    own: OwnStream | str = "this provider uses its own stream"
    if target.provider == CUDA:
        own = open_stream(target.name)
    if isinstance(own, OwnStream):
        found = _staged_session(ort, graph, target, threads, profile, own)
        if found is not None:
            return found
        own = f"onnxruntime {ort.__version__} does not accept a stream"
    session = open_session(ort, graph, target, threads, profile)
    require_obtained(session, target)
    if target.provider not in BOUND:
        return session, None, ""
    return session, OrtBinding(ort, session, BOUND[target.provider].format(target.index)), f"pageable: {own}"


def _staged_session(
    ort: Any, graph: str, target: Target, threads: int, profile: Path | None, own: OwnStream
) -> tuple[Any, OrtStaged, str] | None:
    """Open a session on the given stream; if onnxruntime rejects it, close the stream and return None."""
    try:
        session = open_session(ort, graph, target, threads, profile, own)
        require_obtained(session, target)
        if own.accepted_by(session, target.provider):
            everything = set(nodes_by_provider(session)) == {target.provider}
            waits = "" if everything else "; the host waits for each run, because nodes may run on the cpu"
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


def open_session(
    ort: Any,
    graph: str | bytes,
    target: Target,
    threads: int,
    profile: Path | None = None,
    own: OwnStream | None = None,
) -> Any:
    """Open a session on the target, without verifying its providers.

    The settings suit a machine that does other work as well; ``docs/backends.md`` lists them with their cost.
    """
    options = ort.SessionOptions()
    # An explicit number of threads, unlike onnxruntime's default, does not pin them to cores: those of two sessions or
    # programs would share the first ones.
    options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    options.inter_op_num_threads = 1  # SAM's graphs are chains: nothing can run in parallel
    # Spinning threads speed up the decoder's many small steps; between calls they would only heat the board.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # The arena keeps one run's memory for the next. Without it every step asks the system anew: the encoder of ViT-B
    # takes 1.7 times the CPU time and peaks at 1087 MB instead of 825. Shrinking it after each run (225 MB there) costs
    # 3 % per run and leaves the peak unchanged.
    options.enable_cpu_mem_arena = True
    # The first run's pattern becomes one block that the second run allocates on top of what the arena already holds:
    # without it the encoders of ViT-B and MobileSAM peak at 813 and 318 MB instead of 1010 and 486.
    options.enable_mem_pattern = False
    # x86 without VNNI adds products of 8 bits in 16, which overflow; elsewhere this changes nothing.
    options.add_session_config_entry(EXACT_INT8, "1")
    if target.provider != CPU:
        options.add_session_config_entry(RECORD_PLACEMENT, "1")
    options.log_severity_level = 4  # failures are raised as well: stderr adds nothing
    # Without `enable_fallback=0` the session prints to stdout and continues on the CPU.
    start = partial(ort.InferenceSession, graph, providers=target.providers(own), enable_fallback=0)
    try:
        return start(options)
    except Exception as error:
        if _SHARED_WEIGHT not in str(error):
            raise
        options.add_session_config_entry(EXACT_INT8, "0")
        return start(options)


def default_target(ort: Any) -> Target:
    """Return CUDA if it works, otherwise the CPU, for callers that named no device."""
    with contextlib.suppress(DeviceUnavailableError):
        cuda = parse_device("cuda")
        if CUDA in ort.get_available_providers():
            require_device(ort, cuda)
            return cuda
    return parse_device("cpu")


def require_device(ort: Any, target: Target) -> None:
    """Verify with a tiny graph that a session obtains the target's provider."""
    if target.provider not in ort.get_available_providers():
        raise DeviceUnavailableError(
            f"the device {target.name!r} is unavailable: the installed onnxruntime {ort.__version__} was built without "
            f"{target.provider}{double_install()}",
            cure=wheel_cure(target.provider),
            device=target.name,
            available=tuple(ort.get_available_providers()),
        )
    if target.provider == CPU:
        return
    causes = [preload_libraries(ort)] if target.provider in (CUDA, TENSORRT) else []
    got: list[str] = []
    try:
        got = open_session(ort, IDENTITY, target, 1).get_providers()
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no base class
        causes.insert(0, first_line(error))
    if got[:1] == [target.provider]:
        return
    causes.append(library_cause(ort, target.provider))
    cause = "; ".join(cause for cause in causes if cause) or "onnxruntime gave no reason"
    raise DeviceUnavailableError(
        f"the device {target.name!r} is unavailable: {cause}{double_install()}",
        cure="Install the driver and the libraries that this build of onnxruntime needs "
        "(https://onnxruntime.ai/docs/execution-providers), or request device 'cpu'",
        device=target.name,
        available=tuple(got),
    )


def require_obtained(session: Any, target: Target) -> None:
    """Verify that a session obtained its provider, and that some of the graph runs there."""
    got = session.get_providers()
    counts = {} if target.provider == CPU else nodes_by_provider(session)
    nothing = set(counts) == {CPU}
    if got[:1] == [target.provider] and not nothing:
        return
    what = "has no kernel for any node of this graph" if nothing else f"fell back to {', '.join(got)}"
    raise DeviceUnavailableError(
        f"the device {target.name!r} is unavailable: {target.provider} {what}",
        cure="Update onnxruntime, export the checkpoint with a lower opset, or ask for device 'cpu'",
        device=target.name,
        available=tuple(got),
    )


def placement(session: Any) -> str:
    """Return how many nodes of an accelerated session run on the CPU, as text."""
    counts = nodes_by_provider(session)
    if not counts:
        return "not reported by this onnxruntime"
    return f"{counts.get(CPU, 0)} of {sum(counts.values())}"


def nodes_by_provider(session: Any) -> dict[str, int]:
    """Count the nodes of each provider; empty if onnxruntime is too old to report them."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts
