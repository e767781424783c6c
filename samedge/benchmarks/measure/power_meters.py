"""Energy meters: the power sensors of Jetson boards, and RAPL.

Both measure the whole machine, including idle power, and are read from files, so that tests can supply their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from samedge.benchmarks.measure.power_state import SYSTEM_FILES, text_of

_HWMON: Final = "sys/class/hwmon"
_I2C: Final = "sys/bus/i2c/drivers"
_RAPL: Final = "sys/class/powercap"
_TOTAL_RAILS: Final = ("VDD_IN", "POM_5V_IN")
"""Rails that supply a whole Jetson; without one of them, all rails are summed."""
_IGNORED_RAILS: Final = ("", "NC", "sum of shunt voltages")
_PERIOD: Final = 0.05


class Meter(Protocol):
    """An energy meter."""

    @property
    def name(self) -> str:
        """Name of the sensors."""
        ...

    def start(self) -> None:
        """Start measuring."""
        ...

    def stop(self) -> float:
        """Return the joules since `start`."""
        ...


@dataclass(frozen=True, slots=True)
class RaplDomain:
    """A RAPL counter: microjoules that wrap around at a limit."""

    name: str
    file: Path
    limit: int

    def read(self) -> int:
        """Return the counter in microjoules."""
        return int(self.file.read_text(encoding="ascii"))


class RaplMeter:
    """The energy counters of the CPU packages: cores, caches and memory controller, but no accelerator."""

    def __init__(self, domains: Sequence[RaplDomain]) -> None:
        self._domains = tuple(domains)
        self._begun: list[int] = []

    @property
    def name(self) -> str:
        """Names of the packages."""
        return f"RAPL ({', '.join(domain.name for domain in self._domains)})"

    def start(self) -> None:
        """Read the counters."""
        self._begun = [domain.read() for domain in self._domains]

    def stop(self) -> float:
        """Return the joules since `start`; a counter may have wrapped around once."""
        spent = 0
        for domain, begun in zip(self._domains, self._begun, strict=True):
            now = domain.read()
            spent += now - begun if now >= begun else now + domain.limit - begun
        return spent / 1e6


@dataclass(frozen=True, slots=True)
class Rail:
    """A power sensor: either a file of milliwatts, or one of millivolts and one of milliamperes."""

    name: str
    files: tuple[Path, ...]

    def watts(self) -> float:
        """Return the current power."""
        values = [int(file.read_text(encoding="ascii")) for file in self.files]
        return values[0] / 1e3 if len(values) == 1 else values[0] * values[1] / 1e6


class RailMeter:
    """Power sensors (INA3221) on the rails of a Jetson, read twenty times a second by a thread."""

    def __init__(self, rails: Sequence[Rail], clock: Callable[[], float] = time.perf_counter) -> None:
        self._rails = tuple(rails)
        self._clock = clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._joules = 0.0
        self._last = (0.0, 0.0)

    @property
    def name(self) -> str:
        """Names of the rails."""
        return f"INA3221 ({', '.join(rail.name for rail in self._rails)})"

    def start(self) -> None:
        """Start reading."""
        self._joules, self._last = 0.0, (self._clock(), self._watts())
        self._stop.clear()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the joules since `start`, by the trapezoidal rule."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.sample()
        return self._joules

    def sample(self) -> None:
        """Read once, and add the energy since the last reading."""
        now, watts = self._clock(), self._watts()
        then, before = self._last
        self._joules += (now - then) * (watts + before) / 2
        self._last = (now, watts)

    def _watts(self) -> float:
        return sum(rail.watts() for rail in self._rails)

    def _read(self) -> None:
        while not self._stop.wait(_PERIOD):
            self.sample()


def find_meter(root: Path = SYSTEM_FILES) -> tuple[Meter | None, str]:
    """Return the meter of this machine and an empty text, or None and the reason."""
    rails = _rails(root)
    if rails:
        return _readable(RailMeter(rails), "the board's power sensors")
    domains = _rapl_domains(root)
    if domains:
        return _readable(RaplMeter(domains), "the processor's energy counters")
    return None, "no Jetson power sensor and no RAPL counter found"


def _readable(meter: RailMeter | RaplMeter, what: str) -> tuple[Meter | None, str]:
    try:
        meter.start()
        meter.stop()
    except PermissionError:
        return None, f"{what} are not readable: run as root, or change their permissions"
    except (OSError, ValueError) as error:
        return None, f"{what} cannot be read: {error}"
    return meter, ""


def _rapl_domains(root: Path) -> list[RaplDomain]:
    """Return the top-level package domains: they include their parts, and "psys" would count them twice."""
    domains = []
    for folder in sorted((root / _RAPL).glob("intel-rapl:*")):
        name = text_of(folder / "name")
        if name.startswith("package") and folder.name.count(":") == 1:
            limit = text_of(folder / "max_energy_range_uj")
            domains.append(RaplDomain(name, folder / "energy_uj", int(limit) if limit.isdecimal() else 0))
    return domains


def _rails(root: Path) -> list[Rail]:
    rails = [*_hwmon_rails(root), *_i2c_rails(root)]
    total = [rail for rail in rails if rail.name in _TOTAL_RAILS]
    return total[:1] or rails


def _hwmon_rails(root: Path) -> list[Rail]:
    """Return the rails of JetPack 5 and later: millivolts and milliamperes of each channel."""
    rails = []
    for folder in sorted((root / _HWMON).glob("hwmon*")):
        if text_of(folder / "name") != "ina3221":
            continue
        for label in sorted(folder.glob("in*_label")):
            name, number = text_of(label), label.name.removeprefix("in").removesuffix("_label")
            files = (folder / f"in{number}_input", folder / f"curr{number}_input")
            if name not in _IGNORED_RAILS and all(file.exists() for file in files):
                rails.append(Rail(name, files))
    return rails


def _i2c_rails(root: Path) -> list[Rail]:
    """Return the rails of JetPack 4: milliwatts of each channel."""
    rails = []
    for label in sorted((root / _I2C).glob("ina3221x/*/iio:device*/rail_name_*")):
        name, number = text_of(label), label.name.removeprefix("rail_name_")
        file = label.with_name(f"in_power{number}_input")
        if name not in _IGNORED_RAILS and file.exists():
            rails.append(Rail(name, (file,)))
    return rails
