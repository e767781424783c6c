"""ONNX graphs through onnxruntime, on the CPU or any accelerator supported by the installed wheel.

A named device is used or raises an error: onnxruntime would fall back to the CPU with a log line at most, so the
session is asked which provider it obtained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.dlpack import Exporter
from samedge.engines.onnxruntime.binding import ORT_DTYPES, OrtBinding
from samedge.engines.onnxruntime.session import (
    PROVIDERS,
    bound_session,
    default_target,
    parse_device,
    placement,
    require_device,
)
from samedge.engines.onnxruntime.staged import OrtStaged
from samedge.engines.onnxruntime.wheels import CPU, foreign_error, reinstall_cure
from samedge.engines.protocol import Availability, EngineOptions
from samedge.engines.selection.machine import usable_cores
from samedge.errors import BackendUnavailableError, EngineError, SamedgeError
from samedge.types import Array, TensorSpec


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
        """Run the graph.

        Raises:
            EngineError: onnxruntime failed.
        """
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
        """Run the graph and return its outputs on the GPU, complete.

        Raises:
            EngineError: onnxruntime failed, or does not run on a GPU here.
        """
        try:
            return self._bound().run_on_device(feeds, outputs)
        except SamedgeError:
            raise
        except Exception as error:
            raise foreign_error(error, self._where, "onnxruntime failed while running this graph") from error

    def to_device(self, array: Array) -> DeviceArray:
        """Copy a host array to the GPU.

        Raises:
            EngineError: onnxruntime failed, or does not run on a GPU here.
        """
        try:
            return self._bound().to_device(array)
        except SamedgeError:
            raise
        except Exception as error:
            raise foreign_error(error, self._where, "onnxruntime cannot copy this array to the GPU") from error

    def borrow(self, exporter: Exporter) -> DeviceArray:
        """Wrap another library's memory on this GPU as an array.

        Raises:
            EngineError: onnxruntime does not run on a GPU here.
            MissingExtraError: The CUDA bindings are not installed.
        """
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
