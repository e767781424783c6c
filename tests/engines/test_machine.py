"""What is told of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from samedge.engines import selection as machine
from samedge.engines.selection import machine_facts

X86 = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: other\n"
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"


def test_this_machine_has_a_processor_and_cores() -> None:
    facts = machine_facts()
    assert facts["processor"]
    assert int(facts["cores"]) >= 1
    assert facts == machine_facts()


@pytest.mark.parametrize(
    ("info", "board", "want"),
    [
        (X86, None, {"processor": "AMD EPYC (cpu family 25 model 17)"}),
        (
            ARM,
            "NVIDIA Jetson AGX Orin\0",
            {"processor": "aarch64 (cpu implementer 0x41 cpu part 0xd42)", "board": "NVIDIA Jetson AGX Orin"},
        ),
        (None, None, {"processor": "aarch64"}),
    ],
    ids=["x86", "a board", "no /proc"],
)
def test_other_machines(
    info: str | None, board: str | None, want: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, attribute, text in (("cpuinfo", "_CPU_INFO", info), ("model", "_BOARD", board)):
        monkeypatch.setattr(machine, attribute, tmp_path / name)
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr("platform.processor", lambda: "aarch64")
    facts = machine_facts()
    assert {name: facts.get(name) for name in want} == want
    assert ("board" in facts) == (board is not None)
