"""Cores are counted as the process may use them, on file trees like those of Linux."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from samedge.engines import selection as cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four CPUs that are two cores with two hyper-threads each, all allowed, no quota."""
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / "cpu" / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(cores, "_SYSFS", tmp_path / "cpu")
    monkeypatch.setattr(cores, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    return tmp_path


def test_hyper_threads_count_once(machine: Path) -> None:
    assert cores.usable_cores() == 2


def test_affinity_is_respected(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    assert cores.usable_cores() == 1


def test_cpus_that_the_system_says_nothing_of_are_cores(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_SYSFS", machine / "nothing")
    assert cores.usable_cores() == 4


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("100000 100000", 1), ("150000 100000", 2), ("10000 100000", 1), ("max 100000", 2), ("900000 100000", 2)],
)
def test_a_quota_of_version_2_is_respected(machine: Path, quota: str, expected: int) -> None:
    (machine / "cgroup").mkdir()
    (machine / "cgroup" / "cpu.max").write_text(quota + "\n")
    assert cores.usable_cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [("100000", 1), ("-1", 2), ("", 2)])
def test_a_quota_of_version_1_is_respected(machine: Path, quota: str, expected: int) -> None:
    folder = machine / "cgroup" / "cpu"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(quota)
    (folder / "cpu.cfs_period_us").write_text("100000")
    assert cores.usable_cores() == expected


def test_a_system_without_affinity_counts_its_cpus(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert cores.usable_cores() == 2


def test_this_machine_has_at_least_one_core() -> None:
    assert 1 <= cores.usable_cores() <= (os.cpu_count() or 1)
