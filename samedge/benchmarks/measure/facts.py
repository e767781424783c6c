"""Conditions of a measurement: machine, versions and date."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import msgspec

from samedge.benchmarks.measure.artefacts import versions_of
from samedge.engines.selection import machine_facts
from samedge.version import __version__

_PACKAGES: Final = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "onnx", "onnxslim", "segment-anything",
    "mobilesam-mirror", "torchvision", "timm",
)  # fmt: skip
_TELLING_FLAGS: Final = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "asimddp", "i8mm")
_CPU_INFO: Final = Path("/proc/cpuinfo")


def measured_where(command: str) -> dict[str, str]:
    """Return facts about machine, versions and date, by name."""
    facts = dict(machine_facts())
    facts["instructions"] = ", ".join(_instructions()) or "unknown"
    facts["memory"] = _memory()
    facts["system"] = f"{platform.system()} {platform.release()}"
    facts["load before"] = _load()
    facts["python"] = platform.python_version()
    facts["samedge"] = __version__
    facts |= versions_of(*_PACKAGES)
    facts["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    facts["command"] = command
    return facts


def settings_text(settings: Any) -> dict[str, str]:
    """Return the fields of a dataclass as text, by name, for a report."""
    fields = msgspec.to_builtins(settings)
    return {
        name: ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        for name, value in fields.items()
    }


def is_busy() -> bool:
    """Return True if other programs load the CPU enough to distort times; False if the load is unknown."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5


def _instructions() -> list[str]:
    try:
        words = set(_CPU_INFO.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return []
    return [flag for flag in _TELLING_FLAGS if flag in words]


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return "unknown"
    return f"{total / 1e9:.1f} GB"


def _load() -> str:
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
