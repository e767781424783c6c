"""``samedge bench``: how its options become what is measured, and errors as one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bench_rows import model_row, report
from support.program import Program

from samedge.benchmarks.bench import session
from samedge.benchmarks.bench.files import write_bench
from samedge.benchmarks.bench.options import COLUMNS, BenchOptions
from samedge.benchmarks.bench.reference_page import PRESET_COLUMNS
from samedge.engines.selection import usable_cores


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[BenchOptions, dict[str, object]]]:
    """What would be measured."""
    calls: list[tuple[BenchOptions, dict[str, object]]] = []
    monkeypatch.setattr(session, "run_bench", lambda options, **given: calls.append((options, given)))
    return calls


def test_without_options_all_is_measured_on_all_cores(
    program: Program, asked: list[tuple[BenchOptions, dict[str, object]]]
) -> None:
    assert program("bench").status == 0
    options, given = asked[0]
    assert options == BenchOptions(threads=usable_cores())
    assert options.columns == COLUMNS
    assert given == {"preset": None, "compare": None, "measured": None, "output": None}


def test_every_option_arrives(program: Program, asked: list[tuple[BenchOptions, dict[str, object]]]) -> None:
    done = program(
        "bench", "a.pt", "b", "--rounds", 7, "--warmup", 0, "--everything-rounds", 2, "--everything-points", 8,
        "--mode", "fast", "--threads", 3, "--backend", "openvino", "--device", "cpu", "--image", "x.png", "--image",
        "y.png", "--columns", "size, encode", "--peers", "--peer", "mine=python 'my peer.py' --fast", "--apart",
        "--compare", "old.json", "--from", "new.json", "-o", "out",
    )  # fmt: skip
    assert done.status == 0
    options, given = asked[0]
    assert options == BenchOptions(
        models=("a.pt", "b"), columns=("size", "encode"), images=("x.png", "y.png"), rounds=7, warm_ups=0,
        everything_rounds=2, everything_points=8, mode="fast", threads=3, backend="openvino", device="cpu", peers=True,
        peer_commands={"mine": ("python", "my peer.py", "--fast")}, apart=True,
    )  # fmt: skip
    assert given == {
        "preset": None, "compare": Path("old.json"), "measured": Path("new.json"), "output": Path("out"),
    }  # fmt: skip


def test_the_preset_measures_what_its_table_needs(
    program: Program, asked: list[tuple[BenchOptions, dict[str, object]]]
) -> None:
    assert program("bench", "--preset", "reference-page").status == 0
    assert asked[0][0].columns == PRESET_COLUMNS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--columns", "speed"), "--columns: unknown column 'speed'"),
        (("--mode", "quick"), "--mode: unknown mode 'quick'"),
        (("--peer", "nothing"), "--peer: invalid peer 'nothing'"),
        (("--peer", "a='open"), "--peer: invalid command"),
        (("--peers", "--peer", "meta=it"), "--peer: 'meta' is a built-in peer of --peers"),
        (("--preset", "page"), "--preset: unknown preset 'page'"),
        (("--compare", "none.json"), "none.json: cannot read this"),
        (("--image", "none.png"), "none.png: there is no such image"),
        (("no_such_model.pt",), "no_such_model.pt: there is no such file"),
    ],
)
def test_errors_are_one_line(program: Program, arguments: tuple[str, ...], message: str) -> None:
    done = program("bench", *arguments)
    assert done.status == 1
    error = done.err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in done.err


def test_a_kept_report_is_shown_without_measuring(program: Program, tmp_path: Path) -> None:
    kept = write_bench(report(model_row()), tmp_path)[-1]
    done = program("bench", "--from", kept)
    assert done.status == 0
    assert "SAM-b" in done.out
    assert done.err == ""
