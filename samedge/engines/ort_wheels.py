"""The wheels that onnxruntime comes in, of which only one can be installed, and what to do when it is the wrong one."""

from __future__ import annotations

import contextlib
import ctypes
import io
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from samedge.engines.ort_devices import CUDA, TENSORRT

_WHEELS: Final = {
    TENSORRT: "onnxruntime-gpu",
    CUDA: "onnxruntime-gpu",
    "ROCMExecutionProvider": "onnxruntime-rocm",
    "MIGraphXExecutionProvider": "onnxruntime-migraphx",
    "DmlExecutionProvider": "onnxruntime-directml",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "QNNExecutionProvider": "onnxruntime-qnn",
}


def preload_libraries(ort: Any) -> str:
    """Loads CUDA's libraries from pip's wheels; returns what onnxruntime prints when it does not find them."""
    printed = io.StringIO()
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(printed):
            ort.preload_dlls()
    return " ".join(printed.getvalue().split())[:300]


def library_cause(ort: Any, provider: str) -> str:
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


def double_install() -> str:
    """Says that two wheels are installed that overwrite each other; an empty text where that is not so."""
    wheels = _installed_wheels()
    return f" ({' and '.join(wheels)} are installed together and overwrite each other)" if len(wheels) > 1 else ""


def reinstall_cure() -> str:
    """Returns the commands that mend a broken installation."""
    wheels = _installed_wheels() or ["onnxruntime"]
    return f"Reinstall it: pip uninstall -y {' '.join(wheels)} && pip install {wheels[-1]}"


def wheel_cure(provider: str) -> str:
    """Returns what to install for an execution provider on this machine."""
    wheel = _WHEELS.get(provider)
    if provider in (CUDA, TENSORRT) and platform.machine() == "aarch64":
        return (
            "Install the onnxruntime-gpu wheel that NVIDIA builds for this board's JetPack "
            "(https://elinux.org/Jetson_Zoo), or ask for device 'cpu'"
        )
    if wheel is None:
        return "Install a build of onnxruntime that has it, or ask for device 'cpu'"
    installed = " ".join(_installed_wheels()) or "onnxruntime"
    return f"Run: pip uninstall -y {installed} && pip install {wheel}, or ask for device 'cpu'"
