"""One call as the command line makes it, on what was measured before: presets, comparisons, files, errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.bench_rows import contender, model_row, peer_row, report

from samedge.benchmarks.bench import measuring
from samedge.benchmarks.bench.files import write_bench
from samedge.benchmarks.bench.options import BenchOptions
from samedge.benchmarks.bench.records import read_bench
from samedge.benchmarks.bench.session import measure_report, run_bench, shown_settings
from samedge.errors import BenchmarkError, ImageError, StorageError, UsageError


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A report that was measured before."""
    return write_bench(report(model_row(), peer_row()), tmp_path / "kept")[-1]


def test_a_kept_report_is_shown_drawn_and_written_again(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run_bench(BenchOptions(), measured=kept, preset="reference-page", compare=kept, output=tmp_path / "new")
    assert told == read_bench(kept) == read_bench(tmp_path / "new" / "bench.json")
    out = capsys.readouterr().out
    for text in ("as on the reference page", "everything-mode figure", "parts of the speed figure", "changes"):
        assert text in out
    assert {path.suffix for path in (tmp_path / "new").iterdir()} == {".md", ".csv", ".json", ".png", ".svg"}
    markdown = (tmp_path / "new" / "bench.md").read_text()
    assert "## As on the reference page" in markdown
    assert "## Changes" in markdown


def test_another_machine_is_said_on_the_terminal(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_bench(report(model_row(), processor="another"), tmp_path / "other")[-1]
    run_bench(BenchOptions(), measured=kept, compare=other)
    out = capsys.readouterr().out
    assert "different machine: processor was another and is a fast one: times are not judged" in out


def test_without_matplotlib_the_rest_is_written(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run_bench(BenchOptions(), measured=kept, output=tmp_path / "new")
    assert {path.suffix for path in (tmp_path / "new").iterdir()} == {".md", ".csv", ".json"}
    assert capsys.readouterr().err.count("matplotlib") == 1


def test_what_is_measured_is_shown_and_where_and_how_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "find_contenders", lambda *_: iter([(contender("a model"),)]))
    options = BenchOptions(columns=("encode", "size"), rounds=1, warm_ups=0)
    told = run_bench(options, output=tmp_path)
    captured = capsys.readouterr()
    assert "a model" in captured.out
    assert "Round 1 of 1: encode of a model" in captured.err
    assert read_bench(tmp_path / "bench.json") == told
    assert {"processor", "cores", "memory", "date", "command"} <= told.machine.keys()
    assert (told.settings["rounds"], told.settings["columns"], told.settings["pictures"]) == ("1", "encode, size", "2")
    assert measure_report(options).rows[0].stages["encode"].wall.median == told.rows[0].stages["encode"].wall.median


def test_an_interrupted_run_leaves_what_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measuring, "find_contenders", lambda *_: iter([(contender("a model"),)]))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "run_rounds", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_bench(BenchOptions(rounds=1), output=tmp_path)
    assert [row.name for row in read_bench(tmp_path / "bench.json").rows] == ["a model"]


def test_where_no_model_can_be_measured_the_status_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "find_contenders", lambda *_: iter([(contender("a model", "refuses"),)]))
    with pytest.raises(BenchmarkError, match="no model could be measured"):
        run_bench(BenchOptions(rounds=1))


def test_errors_come_before_anything_is_measured(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--preset: unknown preset 'page'. Choose reference-page"):
        run_bench(BenchOptions(), preset="page")
    with pytest.raises(StorageError):
        run_bench(BenchOptions(), compare=tmp_path / "none.json")
    (tmp_path / "targets.json").write_text('{"schema": 1}')
    with pytest.raises(BenchmarkError, match=r"Give the bench.json"):
        run_bench(BenchOptions(), measured=tmp_path / "targets.json")
    with pytest.raises(ImageError, match="no such image"):
        run_bench(BenchOptions(images=("none.png",)))


def test_settings_name_pictures_by_their_content() -> None:
    first, second = shown_settings(BenchOptions())["images"].split(", ")
    assert first.startswith("scene.jpg ")
    assert second.startswith("coffee.jpg ")
    settings = shown_settings(BenchOptions(peer_commands={"mine": ("python", "a b.py")}))
    assert settings["peer mine"] == "python 'a b.py'"
