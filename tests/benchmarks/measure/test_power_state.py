"""Clocks, power mode and temperatures from a system's files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from support.system_tree import write_tree

from samedge.benchmarks.measure.device_memory import used_device_bytes, why_unknown
from samedge.benchmarks.measure.power_state import before_and_after, power_state

CPU = "sys/devices/system/cpu"
ORIN = {
    f"{CPU}/cpu{number}/cpufreq/{name}": text
    for number in (0, 1, 10)
    for name, text in (
        ("scaling_governor", "schedutil\n"),
        ("scaling_cur_freq", "1510400\n" if number else "729600\n"),
        ("scaling_min_freq", "729600\n"),
        ("scaling_max_freq", "1510400\n"),
    )
} | {
    "sys/class/devfreq/17000000.gpu/cur_freq": "612000000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
    "sys/class/devfreq/soctherm/cur_freq": "1\n",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=15W >\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48250\n",
    "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "-256000\n",
}


def test_a_board_tells_mode_clocks_and_temperatures(tmp_path: Path) -> None:
    assert power_state(write_tree(tmp_path, ORIN)) == {
        "cpu governor": "schedutil",
        "cpu clock, MHz": "730–1510 (of 730–1510)",
        "gpu clock, MHz": "612 (of 306–918)",
        "power mode": "2 (15W)",
        "jetson_clocks": "off",
        "temperatures, °C": "cpu-thermal 48",
    }


def test_locked_clocks_are_seen(tmp_path: Path) -> None:
    locked = {name: "1510400" if name.endswith("min_freq") and CPU in name else text for name, text in ORIN.items()}
    assert power_state(write_tree(tmp_path, locked))["jetson_clocks"] == "on"


def test_a_system_that_tells_nothing_has_no_facts(tmp_path: Path) -> None:
    assert power_state(tmp_path) == {}
    assert power_state(write_tree(tmp_path, {"var/lib/nvpmodel/status": "pmode:7"})) == {
        "power mode": "7",
        "jetson_clocks": "off",
    }


def test_what_changed_meanwhile_is_told() -> None:
    before = {"cpu governor": "powersave", "temperatures, °C": "cpu 40"}
    after = {"cpu governor": "powersave", "temperatures, °C": "cpu 71"}
    assert before_and_after(before, after) == {**before, "temperatures, °C, after": "cpu 71"}


class FakeNvml(ModuleType):
    """NVIDIA's driver with one GPU: "PID, MiB" of each process, and the MiB that all use."""

    class NVMLError(Exception):
        """What the driver refuses."""

    def __init__(self, listed: str, used: str) -> None:
        super().__init__("pynvml")
        self._listed, self._used = listed, used
        self.open = 0

    def nvmlInit(self) -> None:
        if not self._used:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"handle {index}"

    def nvmlDeviceGetMemoryInfo(self, gpu: str) -> SimpleNamespace:
        assert gpu == "handle 0"
        if not self._used.strip().isdecimal():
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(used=int(self._used) << 20)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: str) -> list[SimpleNamespace]:
        assert gpu == "handle 0"
        rows = [line.split(",") for line in self._listed.splitlines()]
        return [SimpleNamespace(pid=int(pid), usedGpuMemory=int(size) << 20) for pid, size in rows]


@pytest.mark.parametrize(
    ("listed", "used", "before", "mebibytes"),
    [
        ("12, 500\n77, 300\n77, 20\n", "900\n", 100, 320),  # the process is listed
        ("12, 500\n", "900\n", 100, 800),  # in a container it is not: what more is used than before
        ("", "", None, None),  # no NVIDIA driver
        ("", "[N/A]\n", 0, None),  # a Jetson, whose memory is the system's
        ("77, 300\n", "900\n", None, 900),  # before anything is loaded
    ],
)
def test_device_memory_is_what_the_driver_tells(
    listed: str, used: str, before: int | None, mebibytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeNvml(listed, used)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    given = None if before is None else before << 20
    found = used_device_bytes(given, pid=77)
    assert found == (None if mebibytes is None else mebibytes << 20)
    assert driver.open == 0
    if mebibytes is None:
        assert "NVIDIA's driver does not" in why_unknown()


def test_without_the_package_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert used_device_bytes(None) is None
    assert "pip install 'samedge[bench]'" in why_unknown()
