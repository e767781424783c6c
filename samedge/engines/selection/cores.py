"""The number of useful CPU threads: physical cores that this process may use.

Runtimes count the machine's cores. In a container with a quota, or under taskset, they then start more threads than
there are cores, and run slower than with one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_SYSFS: Final = Path("/sys/devices/system/cpu")
_CGROUP: Final = Path("/sys/fs/cgroup")


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
    text = _read(_SYSFS / f"cpu{cpu}" / "topology" / "thread_siblings_list")
    return text or str(cpu)


def _quota() -> float | None:
    """Return the CPUs allowed by the control group (version 2, then 1), or None."""
    limit, _, period = _read(_CGROUP / "cpu.max").partition(" ")
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
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
