"""Machine facts that affect speed: the processor, and the share of it that may be used."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

from samedge.engines.selection.cores import usable_cores

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


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
