"""Energy, where the board or the processor tells it: Jetson's power sensors, and RAPL.

Both measure all that the machine does, idle power included, and are read from files, so that a test can bring its own.
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
"""Rails of Jetsons through which everything comes; the sum of all where there is none of them."""
_IGNORED_RAILS: Final = ("", "NC", "sum of shunt voltages")
_PERIOD: Final = 0.05


class Meter(Protocol):
    """Tells energy."""

    @property
    def name(self) -> str:
        """What is read."""
        ...

    def start(self) -> None:
        """Begin."""
        ...

    def stop(self) -> float:
        """Return the joules since `start`."""
        ...


@dataclass(frozen=True, slots=True)
class RaplDomain:
    """A RAPL counter: microjoules that begin again at a limit."""

    name: str
    file: Path
    limit: int

    def read(self) -> int:
        """Return microjoules since an unknown moment."""
        return int(self.file.read_text(encoding="ascii"))


class RaplMeter:
    """The energy counters of the processor's packages: cores, caches and memory controller, no accelerator.

    Args:
        domains: Counters, one a package.
    """

    def __init__(self, domains: Sequence[RaplDomain]) -> None:
        self._domains = tuple(domains)
        self._begun: list[int] = []

    @property
    def name(self) -> str:
        """The packages."""
        return f"RAPL ({', '.join(domain.name for domain in self._domains)})"

    def start(self) -> None:
        """Read the counters."""
        self._begun = [domain.read() for domain in self._domains]

    def stop(self) -> float:
        """Return the joules since `start`; a counter may have begun again once."""
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
        """Return the power now."""
        values = [int(file.read_text(encoding="ascii")) for file in self.files]
        return values[0] / 1e3 if len(values) == 1 else values[0] * values[1] / 1e6


class RailMeter:
    """Power sensors (INA3221) on the rails of a Jetson, read twenty times a second by a thread.

    Args:
        rails: Sensors whose sum is the board's power.
        clock: Seconds.
    """

    def __init__(self, rails: Sequence[Rail], clock: Callable[[], float] = time.perf_counter) -> None:
        self._rails = tuple(rails)
        self._clock = clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._joules = 0.0
        self._last = (0.0, 0.0)

    @property
    def name(self) -> str:
        """The rails."""
        return f"INA3221 ({', '.join(rail.name for rail in self._rails)})"

    def start(self) -> None:
        """Begin to read."""
        self._joules, self._last = 0.0, (self._clock(), self._watts())
        self._stop.clear()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the joules since `start`: power over time, by trapezia."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.sample()
        return self._joules

    def sample(self) -> None:
        """Read once, and adds what was spent since the last time."""
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
    """Return what tells energy here and an empty text, or None and why nothing does.

    Args:
        root: Of the system's files.
    """
    rails = _rails(root)
    if rails:
        return _readable(RailMeter(rails), "the board's power sensors")
    domains = _rapl_domains(root)
    if domains:
        return _readable(RaplMeter(domains), "the processor's energy counters")
    return None, "no power sensor of a Jetson and no RAPL counter here"


def _readable(meter: RailMeter | RaplMeter, what: str) -> tuple[Meter | None, str]:
    try:
        meter.start()
        meter.stop()
    except PermissionError:
        return None, f"{what} are there and may not be read: run as root, or make them readable"
    except (OSError, ValueError) as error:
        return None, f"{what} are there and cannot be read: {error}"
    return meter, ""


def _rapl_domains(root: Path) -> list[RaplDomain]:
    """Top-level domains named after packages: their parts are in them, and "psys" holds them."""
    found = []
    for folder in sorted((root / _RAPL).glob("intel-rapl:*")):
        name = text_of(folder / "name")
        if name.startswith("package") and folder.name.count(":") == 1:
            limit = text_of(folder / "max_energy_range_uj")
            found.append(RaplDomain(name, folder / "energy_uj", int(limit) if limit.isdecimal() else 0))
    return found


def _rails(root: Path) -> list[Rail]:
    rails = [*_hwmon_rails(root), *_i2c_rails(root)]
    total = [rail for rail in rails if rail.name in _TOTAL_RAILS]
    return total[:1] or rails


def _hwmon_rails(root: Path) -> list[Rail]:
    """JetPack 5 and later: millivolts and milliamperes of each channel."""
    found = []
    for folder in sorted((root / _HWMON).glob("hwmon*")):
        if text_of(folder / "name") != "ina3221":
            continue
        for label in sorted(folder.glob("in*_label")):
            name, number = text_of(label), label.name.removeprefix("in").removesuffix("_label")
            files = (folder / f"in{number}_input", folder / f"curr{number}_input")
            if name not in _IGNORED_RAILS and all(file.exists() for file in files):
                found.append(Rail(name, files))
    return found


def _i2c_rails(root: Path) -> list[Rail]:
    """JetPack 4: milliwatts of each channel."""
    found = []
    for label in sorted((root / _I2C).glob("ina3221x/*/iio:device*/rail_name_*")):
        name, number = text_of(label), label.name.removeprefix("rail_name_")
        file = label.with_name(f"in_power{number}_input")
        if name not in _IGNORED_RAILS and file.exists():
            found.append(Rail(name, (file,)))
    return found
