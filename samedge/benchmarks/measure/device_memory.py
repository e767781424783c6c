"""Memory use on an NVIDIA device, as its driver reports it; unavailable for other accelerators."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from typing import Final

_TOOL: Final = "nvidia-smi"
_MIB: Final = 1 << 20
_SECONDS: Final = 20.0

Tool = Callable[[Sequence[str]], str]


def ask_tool(arguments: Sequence[str]) -> str:
    """Return the output of ``nvidia-smi``; empty if it is missing or fails."""
    try:
        done = subprocess.run(  # noqa: S603 - the driver's tool, with arguments of this module
            [_TOOL, *arguments], capture_output=True, text=True, check=False, timeout=_SECONDS
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def used_device_bytes(before: int | None, *, pid: int | None = None, tool: Tool = ask_tool) -> int | None:
    """Return the device memory of a process; None if unavailable.

    In a container the driver knows the process by another id. The result is then the increase in the use by all
    processes, which is right as long as no other program changes its share meanwhile.

    Args:
        before: Use by all processes before this one started; None to return the present use by all processes.
        pid: The process; None for this one.
        tool: Runs the driver's tool.
    """
    if before is not None:
        listed = _rows(tool(("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")))
        own = [row[1] for row in listed if len(row) == 2 and row[0] == (os.getpid() if pid is None else pid)]
        if own:
            return sum(own) * _MIB
    used = [row[0] for row in _rows(tool(("--query-gpu=memory.used", "--format=csv,noheader,nounits"))) if row]
    if not used:
        return None
    return sum(used) * _MIB - (before or 0)


def _rows(text: str) -> list[list[int]]:
    """Return the lines that are numbers; a Jetson reports "[N/A]" instead."""
    rows = []
    for line in text.splitlines():
        try:
            rows.append([int(cell) for cell in line.split(",")])
        except ValueError:
            continue
    return rows


def device_bytes_of(device: str, before: int | None) -> Callable[[], int | None]:
    """Return a function that reads the memory use on an accelerator, and None for a CPU.

    Args:
        device: The device actually used.
        before: Use by all processes before the model was loaded.
    """
    if device.lower().startswith("cpu"):
        return lambda: None
    return lambda: used_device_bytes(before)
