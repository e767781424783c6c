"""``samedge profile``."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from support.onnx_graphs import write_onnx, zeros
from support.program import Program


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_onnx(
        tmp_path / "two.onnx",
        [("MatMul", ["x", "a"], ["y"]), ("Relu", ["y"], ["r"]), ("MatMul", ["r", "b"], ["z"])],
        {"x": ["batch", 64]},
        ["z"],
        {"a": zeros(64, 128), "b": zeros(128, 16)},
    )


OPTIONS = ("--threads", "1", "--runs", "1", "--no-roof")


def test_tables(program: Program, graph: Path) -> None:
    done = program("profile", graph, *OPTIONS, "--batch", "32", "--top", "1")
    assert done.status == 0
    assert "Profiling two.onnx on onnxruntime" in done.err
    for text in ("x 32x64", "kinds of work", "linear", "layers that take most (1 of 3)", "100.0 % of them in layers"):
        assert text in done.out


def test_the_roof_is_shown(program: Program, graph: Path) -> None:
    done = program("profile", graph, "--threads", "1", "--runs", "1", "--backend", "ort")
    assert done.status == 0
    assert "the roof" in done.out
    assert "GB/s" in done.out


@pytest.mark.parametrize("form", ["markdown", "csv", "json"])
def test_forms(program: Program, graph: Path, form: str) -> None:
    done = program("profile", graph, *OPTIONS, "--format", form)
    assert done.status == 0
    if form == "json":
        document = json.loads(done.out)
        assert len(document["layers"]) == 3
        assert document["gflop"] == pytest.approx(2 * (64 * 128 + 128 * 16) / 1e9)
    elif form == "csv":
        tables = [list(csv.reader(io.StringIO(text))) for text in done.out.split("\n\n")]
        assert [table[0][0] for table in tables] == ["", "kind", "layer"]
    else:
        assert done.out.startswith("**profile**")


def test_files(program: Program, graph: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = program("profile", graph, *OPTIONS, "-o", tmp_path / "out")
    assert done.status == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "profile.csv", "profile.json", "profile.md", "profile.png",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "profile.json").read_text())["facts"]["command"].startswith("samedge")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "profile.csv").read_text())))
    assert [row["kind"] for row in rows if row["kind"] == "linear"] == ["linear", "linear"]


def test_no_plot_is_no_error(program: Program, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = program("profile", graph, *OPTIONS, "-o", tmp_path / "out")
    assert done.status == 0
    assert "no plot" in done.err
    assert not (tmp_path / "out" / "profile.png").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--format", "xls"),
        ("--top", "0"),
        ("--runs", "0"),
        ("--backend", "nonsense"),
        ("--device", "cuda:7"),
        ("--threads", "0"),
        ("--source", "none.onnx"),
    ],
)
def test_what_means_nothing_is_one_line(program: Program, graph: Path, options: tuple[str, ...]) -> None:
    done = program("profile", graph, "--no-roof", *options)
    assert done.status == 1
    assert done.out == ""
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.err
