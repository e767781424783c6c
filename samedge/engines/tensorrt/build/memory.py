"""Memory check before a build, so that the system does not have to kill it.

The estimate was measured with TensorRT for RTX 1.7 on SAM graphs of 3 to 600 MB: the process peaked at 0.3 GB plus 3.3
(fp16) to 3.9 (fp32) times the graph. A builder that times kernels on the GPU also needs weights and scratch space on
the device, which on a board is the same memory; that part is computed, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samedge.errors import EngineError
from samedge.storage.files import storage_errors

_BASE_BYTES: Final = 300_000_000
_BYTES_OF_GRAPH: Final = 4
_DEVICE_BASE_BYTES: Final = 400_000_000
"""The CUDA context and library kernels."""

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUPS: Final = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of the GPU that runs a build.

    Attributes:
        free: Free bytes.
        total: Total bytes.
        shared: True if shared with the CPU, as on a Jetson.
    """

    free: int
    total: int
    shared: bool = False


def graph_bytes(graph: Path) -> int:
    """Return the size of a graph and its external weights, bytes."""
    with storage_errors(graph, "read"):
        beside = [path for path in graph.parent.glob(f"{graph.name}*") if path.is_file()]
        return sum(path.stat().st_size for path in {graph, *beside})


def free_host_bytes() -> int | None:
    """Return the memory still available to a process, swap included, bytes; None if unknown."""
    values = dict(line.split(":", 1) for line in _read(_MEMINFO).splitlines() if ":" in line)
    try:
        free = sum(int(values[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    except (KeyError, ValueError, IndexError):
        return None
    for limit, usage in _CGROUPS:
        if _read(limit).isdecimal() and _read(usage).isdecimal():
            free = min(free, max(0, int(_read(limit)) - int(_read(usage))))
    return free


def check_memory(graph: Path, *, device: DeviceMemory | None, workspace: int | None) -> None:
    """Reject a build for which there is not enough memory.

    Args:
        graph: The ONNX file.
        device: The GPU's memory if the builder uses one.
        workspace: Scratch space for its kernels, bytes.

    Raises:
        EngineError: The estimate exceeds the free memory; with the facts `needed` and `free`, bytes.
    """
    size = graph_bytes(graph)
    host = int(_BASE_BYTES + _BYTES_OF_GRAPH * size)
    on_device = 0 if device is None else _DEVICE_BASE_BYTES + 2 * size
    shared = device is not None and device.shared
    _compare(graph, "memory", host + (on_device if shared else 0), free_host_bytes())
    if device is not None and not shared:
        _compare(graph, "GPU memory", on_device, device.free)
    if device is not None and workspace is not None and workspace > device.total:
        raise EngineError(
            f"the workspace of {_mb(workspace)} exceeds the GPU's memory of {_mb(device.total)}",
            where=graph.name,
            cure="Give less, or omit workspace_bytes",
        )


def _compare(graph: Path, kind: str, needed: int, free: int | None) -> None:
    if free is None or needed <= free:
        return
    raise EngineError(
        f"building this engine needs about {_mb(needed)} of {kind}, but only {_mb(free)} are free",
        where=graph.name,
        cure="Close other programs, add swap, or build on a machine with more memory (check_memory=False tries anyway)",
        needed=needed,
        free=free,
        memory=True,
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
