"""Clocks, power mode and temperatures of the machine, without which a board's times mean little.

Everything is read from files below a root, so that tests can supply their own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

SYSTEM_FILES: Final = Path("/")

_CPU: Final = "sys/devices/system/cpu"
_CPU_CLOCKS: Final = ("scaling_cur_freq", "scaling_min_freq", "scaling_max_freq")
_DEVFREQ: Final = "sys/class/devfreq"
_THERMAL: Final = "sys/class/thermal"
_MODE: Final = "var/lib/nvpmodel/status"
_MODES: Final = "etc/nvpmodel.conf"
_GPU: Final = re.compile(r"gpu|gv11b|gp10b|ga10b|gm20b")


def power_state(root: Path = SYSTEM_FILES) -> dict[str, str]:
    """Return governor, clocks, power mode and temperatures by name, as far as the system reports them."""
    gpus = [folder for folder in sorted((root / _DEVFREQ).glob("*")) if _GPU.search(folder.name)]
    facts = {
        "cpu governor": _each(root, "scaling_governor"),
        "cpu clock, MHz": _clocks(_policies(root), _CPU_CLOCKS, 1e3),
        "gpu clock, MHz": _clocks(gpus, ("cur_freq", "min_freq", "max_freq"), 1e6),
        "power mode": _power_mode(root),
        "jetson_clocks": _locked(root),
        "temperatures, °C": _temperatures(root),
    }
    return {name: value for name, value in facts.items() if value}


def before_and_after(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """Return the facts before, plus those that have changed as "NAME, after"."""
    changed = {f"{name}, after": value for name, value in after.items() if before.get(name) != value}
    return {**before, **changed}


def _policies(root: Path) -> list[Path]:
    return sorted((root / _CPU).glob("cpu[0-9]*/cpufreq"), key=lambda path: int(path.parent.name[3:]))


def _each(root: Path, name: str) -> str:
    return ", ".join(dict.fromkeys(text for policy in _policies(root) if (text := text_of(policy / name))))


def _clocks(folders: list[Path], names: tuple[str, str, str], unit: float) -> str:
    """Return the current clocks and the limits of the governor, from files of these names: current, lowest, highest."""
    now, low, high = ([value for folder in folders if (value := _number(folder / name)) is not None] for name in names)
    if not now:
        return ""
    text = f"{min(now) / unit:.0f}" if min(now) == max(now) else f"{min(now) / unit:.0f}–{max(now) / unit:.0f}"
    limits = [*low, *high]
    return f"{text} (of {min(limits) / unit:.0f}–{max(limits) / unit:.0f})" if limits else text


def _power_mode(root: Path) -> str:
    """Return the mode number of ``nvpmodel``, with its name from the configuration."""
    match = re.search(r"pmode:(\d+)", text_of(root / _MODE))
    if match is None:
        return ""
    number = int(match.group(1))
    names = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", text_of(root / _MODES))
    name = next((name for identity, name in names if int(identity) == number), "")
    return f"{number} ({name})" if name else str(number)


def _locked(root: Path) -> str:
    """Return the state of ``jetson_clocks``, which on a Jetson sets every core's minimum clock to its maximum."""
    if not text_of(root / _MODE):
        return ""
    pairs = [(_number(folder / "scaling_min_freq"), _number(folder / "scaling_max_freq")) for folder in _policies(root)]
    return "on" if pairs and all(low is not None and low == high for low, high in pairs) else "off"


def _temperatures(root: Path) -> str:
    temperatures = []
    for zone in sorted((root / _THERMAL).glob("thermal_zone*"), key=lambda path: path.name):
        value = _number(zone / "temp")
        if value is not None and value > 0:  # zones that are off report zero or less
            temperatures.append(f"{text_of(zone / 'type') or zone.name} {value / 1e3:.0f}")
    return ", ".join(temperatures)


def _number(path: Path) -> int | None:
    text = text_of(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def text_of(path: Path) -> str:
    """Return the text of a file without the padding that boards add; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except (OSError, ValueError):
        return ""
