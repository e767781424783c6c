"""Peak memory of a variant: resident set size of a child process that only loads and calls it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from samedge.benchmarks.measure.child import call_in_child, find_target
from samedge.errors import BenchmarkError

CALLS: Final = 2
"""The second call may need more memory: some runtimes plan theirs after the first."""

_STATUS: Final = Path("/proc/self/status")


class MemoryUse(msgspec.Struct, frozen=True):
    """Resident bytes of a whole process, including Python and libraries.

    Attributes:
        loaded: After loading the variant, before the first call; the peak so far, on platforms that report only that.
    """

    loaded: int
    peak: int


def measure_memory(target: str, arguments: Mapping[str, Any], *, calls: int = CALLS) -> MemoryUse:
    """Return the memory use of a variant; the target loads it, and returns a callable that does its work once."""
    job = {"target": target, "arguments": dict(arguments), "calls": calls}
    return msgspec.convert(call_in_child(f"{__name__}:observe", job), MemoryUse)


def observe(target: str, arguments: Mapping[str, Any], calls: int) -> dict[str, int]:
    """Load and call a variant in this process, and return the fields of `MemoryUse`."""
    call = find_target(target)(**arguments)
    loaded = resident_bytes()
    for _ in range(calls):
        call()
    return {"loaded": loaded, "peak": peak_resident_bytes()}


def resident_bytes() -> int:
    """Return the resident bytes of this process; the peak, on platforms that report only that."""
    return _status_field("VmRSS") or peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Return the peak resident bytes of this process."""
    # On Linux, ru_maxrss starts at the parent's peak; VmHWM is the process's own.
    peak = _status_field("VmHWM")
    if peak:
        return peak
    try:
        import resource
    except ModuleNotFoundError as error:
        raise BenchmarkError("process memory is unavailable on this platform", cure="Use --no-memory") from error
    most: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _status_field(name: str) -> int:
    """Return a field of ``/proc/self/status`` in bytes; 0 if there is none."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)
