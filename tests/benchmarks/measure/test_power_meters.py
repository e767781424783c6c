"""Energy from files: RAPL counters that begin again, rails of Jetsons, and what may not be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.system_tree import write_tree

from samedge.benchmarks.measure.power_meters import Rail, RailMeter, RaplMeter, find_meter

POWERCAP = "sys/class/powercap"
PC = {
    f"{POWERCAP}/intel-rapl:0/name": "package-0\n",
    f"{POWERCAP}/intel-rapl:0/energy_uj": "900\n",
    f"{POWERCAP}/intel-rapl:0/max_energy_range_uj": "1000\n",
    f"{POWERCAP}/intel-rapl:0:0/name": "core\n",
    f"{POWERCAP}/intel-rapl:0:0/energy_uj": "5\n",
    f"{POWERCAP}/intel-rapl:1/name": "package-1\n",
    f"{POWERCAP}/intel-rapl:1/energy_uj": "100\n",
    f"{POWERCAP}/intel-rapl:1/max_energy_range_uj": "1000\n",
    f"{POWERCAP}/intel-rapl:2/name": "psys\n",
    f"{POWERCAP}/intel-rapl:2/energy_uj": "7\n",
}
HWMON = "sys/class/hwmon"
ORIN_NANO = {
    f"{HWMON}/hwmon0/name": "tmp451\n",
    f"{HWMON}/hwmon1/name": "ina3221\n",
    f"{HWMON}/hwmon1/in1_label": "VDD_IN\n",
    f"{HWMON}/hwmon1/in1_input": "5000\n",
    f"{HWMON}/hwmon1/curr1_input": "2000\n",
    f"{HWMON}/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    f"{HWMON}/hwmon1/in2_input": "5000\n",
    f"{HWMON}/hwmon1/curr2_input": "600\n",
    f"{HWMON}/hwmon1/in7_label": "sum of shunt voltages\n",
    f"{HWMON}/hwmon1/in7_input": "1\n",
}
AGX_ORIN = {
    f"{HWMON}/hwmon{chip}/{name}": text
    for chip, rails in ((3, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")), (4, ("NC", "VDDQ_VDD2_1V8AO")))
    for number, rail in enumerate(rails, 1)
    for name, text in (
        ("name", "ina3221\n"),
        (f"in{number}_label", f"{rail}\n"),
        (f"in{number}_input", "1000\n"),
        (f"curr{number}_input", "3000\n"),
    )
}
NANO = {
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0": "POM_5V_IN\n",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input": "4200\n",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_1": "POM_5V_GPU\n",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power1_input": "900\n",
}


def test_rapl_sums_packages_and_a_counter_may_begin_again(tmp_path: Path) -> None:
    meter, why = find_meter(write_tree(tmp_path, PC))
    assert isinstance(meter, RaplMeter)
    assert (meter.name, why) == ("RAPL (package-0, package-1)", "")
    meter.start()
    write_tree(tmp_path, {f"{POWERCAP}/intel-rapl:0/energy_uj": "50", f"{POWERCAP}/intel-rapl:1/energy_uj": "350"})
    assert meter.stop() == pytest.approx((150 + 250) / 1e6)


@pytest.mark.parametrize(
    ("files", "name", "watts"),
    [
        (ORIN_NANO, "INA3221 (VDD_IN)", 10.0),
        (AGX_ORIN, "INA3221 (VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0, VDDQ_VDD2_1V8AO)", 12.0),
        (NANO, "INA3221 (POM_5V_IN)", 4.2),
    ],
)
def test_rails_of_jetsons_are_the_input_or_the_sum_of_all(
    tmp_path: Path, files: dict[str, str], name: str, watts: float
) -> None:
    meter, why = find_meter(write_tree(tmp_path, {**files, **PC}))  # the board's own sensors come first
    assert isinstance(meter, RailMeter)
    assert (meter.name, why) == (name, "")
    assert sum(rail.watts() for rail in meter._rails) == pytest.approx(watts)


def test_power_over_time_is_energy(tmp_path: Path) -> None:
    file = tmp_path / "power"
    file.write_text("2000")
    times = iter([0.0, 1.0, 3.0])
    meter = RailMeter([Rail("all", (file,))], clock=lambda: next(times))
    meter._last = (0.0, 2.0)
    next(times)
    file.write_text("4000")
    meter.sample()
    file.write_text("6000")
    meter.sample()
    assert meter._joules == pytest.approx(1 * (2 + 4) / 2 + 2 * (4 + 6) / 2)


def test_a_meter_that_runs_reads_in_a_thread_and_stops(tmp_path: Path) -> None:
    file = tmp_path / "power"
    file.write_text("1000")
    meter = RailMeter([Rail("all", (file,))])
    meter.start()
    assert meter._thread is not None
    joules = meter.stop()
    assert not meter._thread.is_alive()
    assert joules >= 0


def test_where_nothing_tells_energy_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_meter(tmp_path) == (None, "no Jetson power sensor and no RAPL counter found")
    write_tree(tmp_path, PC)

    def refuse(_: RaplMeter) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(RaplMeter, "start", refuse)
    meter, why = find_meter(tmp_path)
    assert meter is None
    assert why.startswith("the processor's energy counters are not readable: run as root")


def test_a_counter_that_says_no_number_is_not_used(tmp_path: Path) -> None:
    meter, why = find_meter(write_tree(tmp_path, {**PC, f"{POWERCAP}/intel-rapl:0/energy_uj": "off"}))
    assert meter is None
    assert "cannot be read" in why
