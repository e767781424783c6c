"""The mutually exclusive wheels of onnxruntime, and the cures for having the wrong one."""

from __future__ import annotations

import contextlib
import ctypes
import io
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from samedge.errors import EngineError

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"

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
    """Load CUDA's libraries from pip's wheels; return what onnxruntime prints if it cannot find them."""
    printed = io.StringIO()
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(printed):
            ort.preload_dlls()
    return " ".join(printed.getvalue().split())[:300]


def library_cause(ort: Any, provider: str) -> str:
    """Return the system loader's error for the provider's library, which names the missing one."""
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
    """Return a warning if two wheels that overwrite each other are installed, otherwise ""."""
    wheels = _installed_wheels()
    return f" ({' and '.join(wheels)} are installed together and overwrite each other)" if len(wheels) > 1 else ""


def reinstall_cure() -> str:
    """Return the commands that repair a broken installation."""
    wheels = _installed_wheels() or ["onnxruntime"]
    return f"Reinstall it: pip uninstall -y {' '.join(wheels)} && pip install {wheels[-1]}"


def wheel_cure(provider: str) -> str:
    """Return the installation advice for an execution provider on this machine."""
    wheel = _WHEELS.get(provider)
    if provider in (CUDA, TENSORRT) and platform.machine() == "aarch64":
        return (
            "Install the onnxruntime-gpu wheel that NVIDIA builds for this board's JetPack "
            "(https://elinux.org/Jetson_Zoo), or request device 'cpu'"
        )
    if wheel is None:
        return "Install a build of onnxruntime that includes it, or request device 'cpu'"
    installed = " ".join(_installed_wheels()) or "onnxruntime"
    return f"Run: pip uninstall -y {installed} && pip install {wheel}, or request device 'cpu'"


def foreign_error(error: Exception, where: str, what: str) -> EngineError:
    """Return whatever onnxruntime raised as an `EngineError` with a cure."""
    cause = first_line(error)
    cures = (
        ("alloc", "Out of memory: close other programs, or use a smaller model or precision"),
        ("external", "An external weight file beside the graph is missing or damaged: copy it again"),
        ("Protobuf", "The file is truncated or not an ONNX graph: copy it again, or export the checkpoint again"),
        ("opset", "Update onnxruntime, or export the checkpoint with a lower opset"),
        ("IR version", "Update onnxruntime, or export the checkpoint with a lower opset"),
        ("NOT_IMPLEMENTED", "This build lacks an operator of the graph: update onnxruntime"),
    )
    cure = next((cure for sign, cure in cures if sign.lower() in cause.lower()), "Export the checkpoint again")
    return EngineError(f"{what} ({cause})", where=where, cure=cure, kind=type(error).__name__)


def first_line(error: Exception) -> str:
    """Return the cause as one short line, without onnxruntime's prefix."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[ONNXRuntimeError\] : (\d+ : )?", "", lines[0])[:300]
