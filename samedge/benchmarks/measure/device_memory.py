"""Memory on an NVIDIA device, as its driver's own tool tells it; nothing is known of other accelerators."""

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
    """Return what ``nvidia-smi`` prints; empty where there is none, or it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - the driver's tool, with arguments of this module
            [_TOOL, *arguments], capture_output=True, text=True, check=False, timeout=_SECONDS
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def used_device_bytes(before: int | None, *, pid: int | None = None, tool: Tool = ask_tool) -> int | None:
    """Return the device memory of a process; None where nobody tells it.

    In a container the driver knows the process under another number. Then it is what all processes use now, less what
    they used before, which is right as long as no other program changes its share meanwhile.

    Args:
        before: What all processes used before this one did; None to be told what they use now.
        pid: The process; None for this one.
        tool: Asks the driver.
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
    """Lines of numbers; a Jetson's says "[N/A]", and such lines are left out."""
    rows = []
    for line in text.splitlines():
        try:
            rows.append([int(cell) for cell in line.split(",")])
        except ValueError:
            continue
    return rows


def device_bytes_of(device: str, before: int | None) -> Callable[[], int | None]:
    """Return what tells the memory on an accelerator; on a processor there is none.

    Args:
        device: The device really used.
        before: What all processes used there before the model was loaded.
    """
    if device.lower().startswith("cpu"):
        return lambda: None
    return lambda: used_device_bytes(before)
