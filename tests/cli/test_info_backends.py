"""``samedge info --backends``: the backends, and what was measured to choose among them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from support.program import Program
from support.timed_backends import Clock, TimedBackend, install

from samedge.engines.selection import AUTO_VARIABLE, decide


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def table(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        monkeypatch,
        TimedBackend("swift", clock, {"cpu": [0.1]}),
        TimedBackend("sure|[b]", clock, {"gpu": [1.0], "cpu": [0.3]}),
        TimedBackend("absent", clock, {}, version=None),
    )


@pytest.fixture
def decision(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(AUTO_VARIABLE)
    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"x")
    assert decide(path, threads=2, clock=clock) is not None


@pytest.mark.usefixtures("decision")
def test_a_table_for_people(program: Program) -> None:
    done = program("info", "--backends")
    assert (done.status, done.err) == (0, "")
    words = " ".join(done.out.split())
    for text in (
        "swift", "sure|[b]", "yes", "1.0", "gpu, cpu", "absent is not installed", "pip install 'samedge[absent]'",
        "encoder.onnx", "swift on cpu", "any device, 2 threads",
    ):  # fmt: skip
        assert text in words


@pytest.mark.usefixtures("decision")
def test_markdown(program: Program) -> None:
    lines = program("info", "--backends", "--format", "markdown").out.splitlines()
    assert lines[:4] == [
        "**backends**",
        "",
        "| backend | works | version | devices | opens | why |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    assert lines[5] == "| sure\\|[b] | yes | 1.0 | gpu, cpu | .onnx | sure\\|[b] 1.0 |"
    assert "**decisions**" in lines


@pytest.mark.usefixtures("decision")
def test_csv(program: Program) -> None:
    first, second = program("info", "--backends", "--format", "csv").out.split("\n\n")
    rows = list(csv.DictReader(first.splitlines()))
    assert [row["backend"] for row in rows] == ["swift", "sure|[b]", "absent"]
    assert rows[1]["devices"] == "gpu, cpu"
    (row,) = csv.DictReader(second.splitlines())
    assert row["chosen"] == "swift on cpu"
    assert row["why"] == "swift on cpu: 100 ms, 3.00 times as fast as sure|[b] on cpu"
    assert row["candidates"].startswith("swift on cpu 100 ms; sure|[b] on gpu 1000 ms; ")


@pytest.mark.usefixtures("decision")
@pytest.mark.parametrize("arguments", [("--json",), ("--format", "json")])
def test_json_has_everything(program: Program, arguments: tuple[str, ...]) -> None:
    document = json.loads(program("info", "--backends", *arguments).out)
    assert document["backends"][2] == {
        "name": "absent",
        "aliases": [],
        "suffixes": [".onnx"],
        "available": False,
        "version": None,
        "devices": [],
        "reason": "absent is not installed",
        "cure": "Install it with: pip install 'samedge[absent]'",
    }
    (decision,) = document["decisions"]
    assert decision["backend"] == "swift"
    assert [trial["milliseconds"] for trial in decision["trials"]] == [100.0, 1000.0, 300.0]
    assert decision["question"]["threads"] == 2


def test_without_decisions_there_is_no_table_of_them(program: Program) -> None:
    assert "decisions" not in program("info", "--backends").out
    assert json.loads(program("info", "--backends", "--json").out)["decisions"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no model given. Give a bundle or a checkpoint, or --backends"),
        (("x.pt", "--backends"), "x.pt: --backends takes no model"),
        (("x.pt", "--format", "csv"), "--format applies to --backends only"),
        (("--backends", "--format", "xml"), "unknown format 'xml'. Choose one of: table, markdown, csv, json"),
    ],
)
def test_wrong_usage(program: Program, arguments: tuple[str, ...], message: str) -> None:
    done = program("info", *arguments)
    assert done.status != 0
    assert done.out == ""
    assert message in done.err
    assert len(done.err.splitlines()) == 1
