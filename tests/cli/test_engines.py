"""``samedge engines``: the store as users see it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.boards import ORIN, Board, stale
from support.build_doubles import any_report
from support.fake_tensorrt import FakeTensorRt
from support.program import Program

from samedge.bundle.engine_notes import EngineNotes
from samedge.bundle.manifest import ParityRecord
from samedge.cli.engines import parse_age, parse_size
from samedge.engines.tensorrt.build.options import BuildOptions, BuildReport
from samedge.engines.tensorrt.store.key import make_key
from samedge.engines.tensorrt.store.sidecar import sidecar_path
from samedge.engines.tensorrt.store.store import EngineStore, StoredEngine
from samedge.errors import UsageError


def add(graph: str, *, size: int = 1000, days: float = 0, verdict: str = "passed", old: bool = False) -> StoredEngine:
    """Puts an engine of TensorRT 10.3 on an Orin into the store."""
    fake = FakeTensorRt("10.3")
    plan = fake.plan({"graph": graph}).ljust(size)

    def build(path: Path) -> BuildReport:
        path.write_bytes(plan)
        return any_report(plan)

    key = make_key(graph * 8, BuildOptions(precision="fp16"), fake.flavour, ORIN, axes=("prompts",))
    parity = ParityRecord(verdict=verdict)  # type: ignore[arg-type]
    notes = EngineNotes("sam_vit_b", "decoder", graph * 8, "fp16", "fp16-norms", parity=parity)
    entry = EngineStore().add(stale(key) if old else key, build, notes=notes.to_notes())
    used = time.time() - days * 86400
    os.utime(sidecar_path(entry.plan), (used, used))
    return entry


def test_the_store_is_listed_in_every_form(program: Program) -> None:
    add("aaaaaaaa", days=2, verdict="unchecked")
    newest = add("bbbbbbbb", size=2_500_000)
    table = program("engines", "ls").out
    for text in ("2 engines, 2.5 MB", "sam_vit_b decoder", "fp16-norms", "unchecked", "10.3.0.26", "Orin (nvgpu)"):
        assert text in table
    rows = list(csv.DictReader(io.StringIO(program("engines", "ls", "--format", "csv").out)))
    assert [(row["engine"], row["MB"], row["verdict"]) for row in rows] == [
        (newest.plan.name[:12], "2.5", "passed"),
        (rows[1]["engine"], "0.0", "unchecked"),
    ]
    (records,) = json.loads(program("engines", "ls", "--format", "json").out).values()
    assert (records[0]["bytes"], records[0]["rung"], records[0]["profiles"]) == (
        2_500_000, "fp16-norms", {"prompts": "1/16/64"},
    )  # fmt: skip
    assert "| sam_vit_b decoder |" in program("engines", "ls", "--format", "markdown").out
    failed = program("engines", "ls", "--format", "xml")
    assert (failed.status, "unknown format 'xml'" in failed.err) == (1, True)


def test_an_empty_store_is_no_error(program: Program) -> None:
    assert "0 engines" in program("engines", "ls").out
    assert "removed 0" in program("engines", "gc").out


def test_why_an_engine_fits(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    Board(monkeypatch)
    entry = add("aaaaaaaa")
    done = program("engines", "why", entry.plan)
    assert (done.status, done.err) == (0, "")
    assert "NO" not in done.out
    assert "1/16/64" in done.out
    assert program("engines", "why", entry.plan.name[:8]).out == done.out


def test_why_an_engine_does_not_fit_field_by_field(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    Board(monkeypatch)
    entry = add("aaaaaaaa", old=True)
    done = program("engines", "why", entry.plan, "--format", "json")
    assert done.status == 1
    (found,) = json.loads(done.out).values()
    fits = {item["part"]: item["fits"] for item in found}
    assert (fits["file"], fits["TensorRT"], fits["version"], fits["GPU"], fits["system"]) == (
        True, True, False, False, True,
    )  # fmt: skip
    gpu = next(item for item in found if item["part"] == "GPU")
    assert (gpu["engine"], gpu["here"]) == (
        "AGX Orin (nvgpu) (8.7, 16 multiprocessors)", "Orin (nvgpu) (8.7, 8 multiprocessors)",
    )  # fmt: skip
    assert "it was built by version 8.6.1.6, but this is 10.3.0.26" in done.err
    assert "Build it for this machine: samedge build BUNDLE" in done.err


def test_why_a_plan_that_was_changed_does_not_fit(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    Board(monkeypatch)
    entry = add("aaaaaaaa")
    with entry.plan.open("ab") as file:
        file.write(b"more")
    done = program("engines", "why", entry.plan)
    assert done.status == 1
    assert "this plan does not match its sidecar" in done.err


def test_why_for_an_engine_of_another_tool(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Board(monkeypatch)
    header = json.dumps({"task": "segment", "names": {"0": "object"}}).encode()
    path = tmp_path / "FastSAM-s.engine"
    path.write_bytes(len(header).to_bytes(4, "little") + header + FakeTensorRt("10.3").plan({}))
    done = program("engines", "why", path)
    assert (done.status, "another tool built it without a key" in done.out) == (0, True)
    path.write_bytes(FakeTensorRt("11").plan({}))
    assert "it was built by version 11.4.0.106" in program("engines", "why", path).err
    Board(monkeypatch, gpu=None)
    done = program("engines", "why", path)
    assert (done.status, "there is no GPU here, or no driver for it" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [("0000", "no such engine on disk or in the store"), ("", "2 engines in the store begin with this")],
)
def test_why_needs_one_engine(program: Program, name: str, message: str) -> None:
    add("aaaaaaaa")
    add("bbbbbbbb")
    done = program("engines", "why", name)
    assert (done.status, message in done.err) == (1, True)


def test_gc_keeps_what_was_used_last(program: Program) -> None:
    old, middle, new = add("aaaaaaaa", days=40), add("bbbbbbbb", days=10), add("cccccccc")
    done = program("engines", "gc", "--older-than", "30d")
    assert "removed 1, 0.0 MB left" in done.out
    assert old.plan.name in done.out
    assert {entry.plan for entry in EngineStore().entries()} == {middle.plan, new.plan}
    program("engines", "gc", "--max-size", "1.5kB")
    assert [entry.plan for entry in EngineStore().entries()] == [new.plan]
    assert [path.name for path in EngineStore().folder.glob(f"{middle.plan.name}*")] == []
    json_form = json.loads(program("engines", "gc", "--max-size", "0", "--format", "json").out)
    assert list(json_form.values()) == [[{"engine": new.plan.name}]]


def test_two_processes_may_collect_and_list_while_a_third_adds(program: Program, cache: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from samedge.cli.app import run
        for _ in range(15):
            assert run(sys.argv[1:]) == 0
        """
    )
    others = [
        subprocess.Popen([sys.executable, "-c", script, "engines", *arguments], stdout=subprocess.DEVNULL)
        for arguments in (["gc", "--max-size", "2kB"], ["ls", "--format", "json"])
    ]
    for index in range(20):
        add(f"{index:08d}")
    assert [other.wait() for other in others] == [0, 0]
    program("engines", "gc", "--max-size", "2kB")
    left = EngineStore().entries()
    assert len(left) == 2
    assert {path.suffix for path in (cache / "engines").iterdir()} <= {".engine", ".json", ".lock"}


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("500 mb", 500 * 10**6), ("1.5k", 1500), ("12", 12), ("2GiB", 2 * 10**9)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("30d", 30 * 86400), ("12h", 43200), ("2w", 1209600), ("1.5m", 90)])
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "much", "-1GB", "1EB"])
def test_what_is_no_size_or_age(program: Program, text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)
    with pytest.raises(UsageError):
        parse_age(text)
    assert program("engines", "gc", "--max-size", "much").status == 1


def test_the_command_alone_shows_its_help(program: Program) -> None:
    done = program("engines")
    assert (done.status, "why" in done.out, done.err) == (2, True, "")


def test_a_key_of_an_older_build_differs_in_what_it_says() -> None:
    key = make_key("a" * 64, BuildOptions(), FakeTensorRt("10.3").flavour, ORIN)
    assert replace(stale(key), version=key.version, gpu=key.gpu, multiprocessors=8) == key
