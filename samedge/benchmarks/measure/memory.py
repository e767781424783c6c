"""Peak memory of a variant: resident set size of a child process that loads it, calls it, and does nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from samedge.benchmarks.measure.child import call_in_child, find_target
from samedge.errors import BenchmarkError

CALLS: Final = 2
"""The second call may need more than the first: a runtime that plans its memory after the first one does."""

_STATUS: Final = Path("/proc/self/status")


class MemoryUse(msgspec.Struct, frozen=True):
    """Resident bytes of a whole process, Python and libraries included.

    Attributes:
        loaded: When the variant was loaded and not yet called. Where the system tells only the peak, the peak so far.
        peak: The most that there ever were.
    """

    loaded: int
    peak: int


def measure_memory(target: str, arguments: Mapping[str, Any], *, calls: int = CALLS) -> MemoryUse:
    """Return what a variant needs.

    Args:
        target: ``module:function`` that loads the variant and returns a callable that does its work once.
        arguments: For the function, as JSON.
        calls: How many times it is called.

    Raises:
        BenchmarkError: The child died, or this system does not tell.
        SamedgeError: As the variant raises it.
    """
    job = {"target": target, "arguments": dict(arguments), "calls": calls}
    return msgspec.convert(call_in_child(f"{__name__}:observe", job), MemoryUse)


def observe(target: str, arguments: Mapping[str, Any], calls: int) -> dict[str, int]:
    """Load and calls a variant in this process, and return the fields of `MemoryUse`."""
    call = find_target(target)(**arguments)
    loaded = resident_bytes()
    for _ in range(calls):
        call()
    return {"loaded": loaded, "peak": peak_resident_bytes()}


def resident_bytes() -> int:
    """Return the resident bytes of this process; the most so far, where the system does not tell those of now.

    Raises:
        BenchmarkError: The system does not tell.
    """
    return _status_field("VmRSS") or peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Return the most resident bytes that this process had.

    Raises:
        BenchmarkError: The system does not tell.
    """
    # On Linux, ru_maxrss of a process begins with the peak of the one that started it; VmHWM is its own.
    peak = _status_field("VmHWM")
    if peak:
        return peak
    try:
        import resource
    except ModuleNotFoundError as error:
        raise BenchmarkError("this system does not tell the memory of a process", cure="Use --no-memory") from error
    most: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _status_field(name: str) -> int:
    """Bytes of a field of ``/proc/self/status``; 0 where there is none."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)
