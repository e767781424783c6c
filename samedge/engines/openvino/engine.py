"""ONNX graphs through OpenVINO, on the CPU and on Intel's GPUs and NPUs.

Graphs run in the precision they are written in: OpenVINO would choose bfloat16 on CPUs that support it, so float32 is
pinned. A named device is used or raises an error; "AUTO", "MULTI" and "HETERO" select among devices and are refused.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np

from samedge.engines.onnx_header import Axes, OnnxPorts, read_onnx_ports
from samedge.engines.protocol import Availability, EngineOptions
from samedge.engines.selection import usable_cores
from samedge.errors import BackendUnavailableError, DeviceUnavailableError, EngineError
from samedge.types import Array, TensorSpec

_DTYPES: Final = {
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "u8": np.uint8,
    "u16": np.uint16,
    "u32": np.uint32,
    "u64": np.uint64,
    "boolean": np.bool_,
}
_REINSTALL: Final = "Reinstall it: pip install --force-reinstall openvino"
_REPORTED: Final = {
    "INFERENCE_PRECISION_HINT": "precision",
    "INFERENCE_NUM_THREADS": "threads",
    "NUM_STREAMS": "streams",
}
_IMAGES: Final = "batch"
_TELEMETRY: Final = "openvino_telemetry"
_IMPORTING: Final = Lock()
_DRIVERS: Final = {
    "GPU": "Install Intel's compute runtime for GPUs and OpenCL's loader (libOpenCL.so.1), and let this user open "
    "/dev/dri/renderD*",
    "NPU": "Install Intel's NPU driver, and let this user open /dev/accel/accel0",
}


class OpenVinoEngine:
    """One ONNX graph (or OpenVINO IR) compiled by OpenVINO for one device.

    External data is read from beside the graph file. Calls from several threads are serialised. A graph whose only free
    axis is the number of images is compiled for one image, which saves time and memory in every call; the first call
    with another number compiles it again for any number.

    Args:
        path: The ``.onnx`` or ``.xml`` file.
        options: Device and threads. Devices: "cpu", "gpu", "gpu.1", "npu", in either case; None takes the CPU.
        counters: Collect performance counters for each layer.

    Raises:
        BackendUnavailableError: OpenVINO is not installed.
        DeviceUnavailableError: The device is unavailable.
        EngineError: The graph cannot be opened.
        StorageError: The file cannot be read.
    """

    def __init__(self, path: Path, options: EngineOptions, *, counters: bool = False) -> None:
        found = self.probe()
        if not found.ok:
            raise BackendUnavailableError(found.reason, cure=found.cure)
        device = _find_device(options.device or "cpu")
        ports = read_onnx_ports(path) if path.suffix == ".onnx" else OnnxPorts({}, {})
        self._path, self._where, self._openvino = path, path.name, device
        self._lock = Lock()
        self._settings = _settings(device, options.threads or usable_cores())
        if counters:
            self._settings["PERF_COUNT"] = True
        self._for_one = _only_images_are_free(ports.inputs)
        self._request_for_any: Any = None
        refused = f"OpenVINO {found.version} cannot open this graph"
        with _foreign_errors(self._where, refused):
            model = _core().read_model(str(path))
        self.inputs = _specs(model.inputs, ports.inputs, self._where)
        self.outputs = _specs(model.outputs, ports.outputs, self._where)
        with _foreign_errors(self._where, refused):
            if self._for_one:
                model.reshape({at: [1, *spec.shape[1:]] for at, spec in enumerate(self.inputs.values())})
            compiled = _core().compile_model(model, device, self._settings)
            del model  # leave OpenVINO as the only owner of the graph
            self._compiled: Any = compiled
            self._request: Any = compiled.create_infer_request()
            known = compiled.get_property("SUPPORTED_PROPERTIES")
            reported = {name: str(compiled.get_property(name)) for name in _REPORTED if name in known}
            used = list(compiled.get_property("EXECUTION_DEVICES"))
        if used != [device]:
            raise DeviceUnavailableError(
                f"device {options.device!r} was requested, but OpenVINO used {', '.join(used)}",
                where=self._where,
                cure="Request one of those",
                device=options.device,
            )
        self.device = device.lower()
        self.details = {
            "openvino": str(found.version),
            "processor": _full_name(device),
            **{_REPORTED[name]: _plain(value) for name, value in reported.items()},
        }

    @staticmethod
    def probe() -> Availability:
        """Report whether OpenVINO is installed, and the devices it finds."""
        cure = "Install it with: pip install 'samedge[openvino]'"
        try:
            openvino = _import_openvino()
            version = str(openvino.get_version()).partition("-")[0]
        except ModuleNotFoundError as error:
            if error.name != "openvino":
                return Availability(False, f"OpenVINO is installed but cannot be imported: {error}", _REINSTALL)
            return Availability(False, "OpenVINO is not installed", cure)
        except (ImportError, OSError, AttributeError) as error:
            return Availability(False, f"OpenVINO is installed but cannot be imported: {error}", _REINSTALL)
        try:
            devices = _devices()
        except EngineError as error:
            return Availability(False, str(error), _REINSTALL, version=version)
        if not devices:
            return Availability(False, f"OpenVINO {version} finds no device", _REINSTALL, version=version)
        names = ", ".join(f"{device.lower()} ({_full_name(device)})" for device in devices)
        # Accelerators first; only a measurement tells which is fastest.
        ordered = sorted(devices, key=lambda device: (device == "CPU", device))
        return Availability(
            True, f"OpenVINO {version} with {names}", devices=tuple(map(str.lower, ordered)), version=version
        )

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph."""
        numbered = {at: feeds[name] for at, name in enumerate(self.inputs)}
        places = {name: at for at, name in enumerate(self.outputs)}
        with self._lock, _foreign_errors(self._where, "OpenVINO failed while running this graph"):
            # Feeds are read in place. The next run overwrites the results, so those requested are copied.
            results = self._request_of(numbered).infer(numbered, share_inputs=True, share_outputs=True)
            return {name: np.array(results[places[name]]) for name in outputs}

    def _request_of(self, feeds: Mapping[int, Array]) -> Any:
        """Return the request of the graph for one image, or of the one for any number."""
        if not self._for_one or all(array.shape[0] == 1 for array in feeds.values()):
            return self._request
        if self._request_for_any is None:
            compiled = _core().compile_model(str(self._path), self._openvino, self._settings)
            self._request_for_any = compiled.create_infer_request()
        return self._request_for_any

    def close(self) -> None:
        """Release the compiled graph, after any current run."""
        with self._lock:
            self._request = self._request_for_any = None
            self._compiled = None


def _only_images_are_free(inputs: Mapping[str, Axes | None]) -> bool:
    """Return True if the only free axis of the inputs is the number of images, "batch"."""
    every = list(inputs.values())
    return bool(every) and all(
        axes is not None and axes[:1] == (_IMAGES,) and all(isinstance(axis, int) for axis in axes[1:])
        for axes in every
    )


def _settings(device: str, threads: int) -> dict[str, object]:
    """Return the compilation settings for a device; others stay OpenVINO's defaults, including no model cache."""
    settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY"}
    kind = device.partition(".")[0]
    if kind in ("CPU", "GPU"):
        # An NPU computes in float16 and accepts no other hint.
        settings |= {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY", "NUM_STREAMS": 1}
    if kind == "CPU":
        # Pinned threads of two engines or programs would share the first cores and leave the others idle.
        settings |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    return settings


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report the import over the network.

    A program that already imported OpenVINO has made its own choice.
    """
    with _IMPORTING:
        if "openvino" in sys.modules:
            return import_module("openvino")
        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == _TELEMETRY}
        # None makes `import openvino_telemetry` raise ImportError, which OpenVINO replaces with a stub.
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        try:
            return import_module("openvino")
        finally:
            del sys.modules[_TELEMETRY]
            sys.modules.update(hidden)


@lru_cache(maxsize=1)
def _core() -> Any:
    """Return the process-wide core: each one loads the plugins and starts its own threads."""
    return _import_openvino().Core()


def _devices() -> list[str]:
    with _foreign_errors(None, "OpenVINO cannot list its devices"):
        return [str(device) for device in _core().available_devices]


def _full_name(device: str) -> str:
    with _foreign_errors(None, f"OpenVINO cannot name {device}"):
        return " ".join(str(_core().get_property(device, "FULL_DEVICE_NAME")).split())


def _find_device(device: str) -> str:
    """Return OpenVINO's name of a device."""
    available = _devices()
    name = device.replace(":", ".").upper()
    kind, _, number = name.partition(".")
    first = {kind, f"{kind}.0"} if number in ("", "0") else {name}
    for candidate in available:
        if candidate in first:
            return candidate
    if kind in _DRIVERS:
        others = [candidate.lower() for candidate in available if candidate.partition(".")[0] == kind]
        cause = f"OpenVINO finds only {', '.join(others)}" if others else _absence(kind)
        cure = f"Request one of {', '.join(others)}" if others else f"{_DRIVERS[kind]}, or request device 'cpu'"
    else:
        cause = "OpenVINO has no such device"
        cure = f"Choose one of {', '.join(candidate.lower() for candidate in available)}"
        if kind in ("AUTO", "MULTI", "HETERO", "BATCH"):
            cause = f"{kind} selects among devices, and may use another than intended"
    raise DeviceUnavailableError(
        f"the device {device!r} is unavailable: {cause}", cure=cure, device=device, available=tuple(available)
    )


def _absence(kind: str) -> str:
    """Return OpenVINO's error for an unlisted device, which often names the missing library."""
    try:
        _full_name(kind)
    except EngineError as error:
        return str(error.facts["cause"])
    return f"OpenVINO finds no {kind} here"


def _specs(ports: Sequence[Any], declared: Mapping[str, Axes | None], where: str) -> dict[str, TensorSpec]:
    """Return the inputs or outputs of a graph in order; `declared` holds the axes from the file."""
    specs: dict[str, TensorSpec] = {}
    ordered = list(declared)
    for at, port in enumerate(ports):
        name = _name(port, ordered[at : at + 1] + ordered)
        kind = str(port.get_element_type().get_type_name())
        if kind not in _DTYPES:
            raise EngineError(
                f"{name!r} is of type {kind}, which has no numpy dtype", where=where, cure="Export a graph of tensors"
            )
        shape = _shape(name, port.get_partial_shape(), declared.get(name))
        if shape is None:
            raise EngineError(f"the rank of {name!r} is unknown", where=where, cure="Export it with known ranks")
        specs[name] = TensorSpec(shape, np.dtype(_DTYPES[kind]))
    return specs


def _name(port: Any, declared: Sequence[str]) -> str:
    """Return the name of an input or output: of a tensor's several names, the one in the file."""
    names = port.get_names()
    known = next((name for name in declared if name in names), None)
    if known is None:
        return str(min(names)) if names else str(port.get_node().get_friendly_name())
    return known


def _shape(name: str, sizes: Any, axes: Axes | None) -> tuple[int | str, ...] | None:
    """Return the shape: OpenVINO's sizes, and for free axes the file's name or a unique one."""
    if sizes.rank.is_dynamic:
        known: Axes | None = axes
    else:
        named: Axes = axes if axes is not None and len(axes) == len(sizes) else (None,) * len(sizes)
        known = tuple(size.get_length() if size.is_static else axis for size, axis in zip(sizes, named, strict=True))
    if known is None:
        return None
    return tuple(f"{name}.{at}" if axis is None else axis for at, axis in enumerate(known))


def _plain(value: str) -> str:
    """Turn "<Type: 'float32'>" into "float32"."""
    return value.partition("'")[2].partition("'")[0] if value.startswith("<") else value


@contextlib.contextmanager
def _foreign_errors(where: str | None, what: str) -> Iterator[None]:
    """Convert any OpenVINO exception in the block to an `EngineError` with a cure."""
    try:
        yield
    except Exception as error:
        cause = _cause(error)
        cures = (
            ("alloc", "Out of memory: close other programs, or use a smaller model or precision"),
            ("externally stored data", "An external weight file beside the graph is missing or damaged: copy it again"),
            ("can't be parsed", "The file is damaged: copy it again, or export the checkpoint again"),
            ("no conversion rule", "OpenVINO lacks an operator of the graph: update it, or use onnxruntime"),
        )
        cure = next((cure for sign, cure in cures if sign in cause.lower()), "Export the checkpoint again")
        raise EngineError(
            f"{what} ({cause})", where=where, cure=cure, kind=type(error).__name__, cause=cause
        ) from error


def _cause(error: Exception) -> str:
    """Return OpenVINO's last line as the cause; those before it name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1].removeprefix("-- ") if lines else type(error).__name__)[:300]
