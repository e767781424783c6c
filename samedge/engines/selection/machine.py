"""Machine facts that affect speed: the processor, and the share of it that may be used.

Runtimes count the cores of the machine. In a container with a quota, or under taskset, they then start more threads
than there are cores to run them, and become slower than with one thread.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

_SYSFS: Final = Path("/sys/devices/system/cpu")
_CGROUP: Final = Path("/sys/fs/cgroup")
_CPU_INFO: Final = Path("/proc/cpuinfo")
_BOARD: Final = Path("/proc/device-tree/model")
_CPU_FIELDS: Final = ("model name", "cpu model", "hardware")
_IDENTITY_FIELDS: Final = ("cpu family", "model", "cpu implementer", "cpu part")


def machine_facts() -> dict[str, str]:
    """Return the processor, the board if known, the usable cores, and the system."""
    facts = {
        "processor": _processor(),
        "board": _read(_BOARD).rstrip("\0").strip(),
        "cores": str(usable_cores()),
        "architecture": platform.machine(),
        "system": platform.system(),
    }
    return {name: value for name, value in facts.items() if value}


def _processor() -> str:
    """Return the processor's name and model numbers: names alone are ambiguous, notably in virtual machines."""
    fields: dict[str, str] = {}
    for line in _read(_CPU_INFO).splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    named = next((fields[name] for name in _CPU_FIELDS if fields.get(name)), platform.processor())
    numbers = " ".join(f"{name} {fields[name]}" for name in _IDENTITY_FIELDS if fields.get(name))
    return f"{named} ({numbers})" if numbers else named


def usable_cores() -> int:
    """Return the number of physical cores that this process may use, at least 1.

    Affinity (taskset, cpusets) and the container's CPU quota are respected; hyper-threads count once if the system
    identifies them.
    """
    allowed = _allowed_cpus()
    cores = {_core_of(cpu) for cpu in allowed}
    quota = _quota()
    return max(1, len(cores) if quota is None else min(len(cores), int(quota + 0.5)))


def _allowed_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _core_of(cpu: int) -> str:
    """Return the sibling list shared by the hyper-threads of a core; an unlisted CPU is its own core."""
    text = _read(_SYSFS / f"cpu{cpu}" / "topology" / "thread_siblings_list").strip()
    return text or str(cpu)


def _quota() -> float | None:
    """Return the CPUs allowed by the control group (version 2, then 1), or None."""
    limit, _, period = _read(_CGROUP / "cpu.max").strip().partition(" ")
    if not period:
        limit = _read(_CGROUP / "cpu" / "cpu.cfs_quota_us")
        period = _read(_CGROUP / "cpu" / "cpu.cfs_period_us")
    try:
        quota = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return quota if quota > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
