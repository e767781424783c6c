"""The whole command on a tiny model with random weights. Nothing here says how long anything takes."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from support.shared import environment

from samedge.benchmarks.targets.results import Report, Row, read_report
from samedge.benchmarks.targets.targets import ROWS

TINY = "seeded:sam_vit_tiny"


def run(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m samedge.benchmarks`` with a cache of its own."""
    return subprocess.run(
        [sys.executable, "-m", "samedge.benchmarks", *arguments],
        capture_output=True,
        text=True,
        env={**environment(), "SAMEDGE_CACHE": str(cache), "COLUMNS": "240"},
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what is made for the benchmark lies."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def output(cache: Path) -> Path:
    """The files of one run of all rows."""
    folder = cache / "output"
    options = ["--rounds", "1", "--warm-ups", "0", "--everything-points", "3", "--threads", "1"]
    done = run(cache, "targets", "--models", TINY, "--masks-of", TINY, "--output", str(folder), *options)
    assert done.returncode == 0, done.stderr
    assert "encoder fp32" in done.stdout
    assert "Round 1 of 1" in done.stderr
    return folder


@pytest.fixture(scope="module")
def report(output: Path) -> Report:
    """What it says."""
    return read_report(output / "targets.json")


def rows_of(report: Report, name: str) -> list[Row]:
    return [row for row in report.rows if row.row == name]


def test_every_row_is_there_in_the_order_of_the_table(report: Report) -> None:
    names = [row.row for row in report.rows]
    assert list(dict.fromkeys(names)) == list(ROWS)
    assert all(row.what and row.baseline and row.outcomes for row in report.rows)


def test_only_int8_is_skipped_because_the_model_is_too_small_for_it(report: Report) -> None:
    skipped = {row.row: row.skipped for row in report.rows if row.skipped}
    assert set(skipped) == {"encoder-int8", "encoder-openvino-int8"}
    assert all("no large linear layers" in reason for reason in skipped.values())


@pytest.mark.parametrize("name", ["encoder", "encoder-openvino", "encoder-best"])
def test_encoders_are_exact_and_measured_in_full(report: Report, name: str) -> None:
    (row,) = rows_of(report, name)
    assert row.error is not None
    assert row.error < 1e-4
    assert row.mask_iou == pytest.approx(1, abs=1e-3)
    assert row.timing is not None
    assert row.baseline_timing is not None
    assert row.timing.wall.count == row.timing.ratio.count == 1
    assert row.baseline_timing.ratio.median == 1
    assert row.memory is not None
    assert 0 < row.memory.loaded <= row.memory.peak
    assert row.bytes is not None
    assert row.baseline_bytes is not None
    assert 0.5 < row.bytes / row.baseline_bytes < 2


def test_decoders_are_exact(report: Report) -> None:
    for count in (1, 8, 16):
        (row,) = rows_of(report, f"decoder-{count}")
        assert row.error is not None
        assert row.error < 5e-5
        assert {"speed", "speed_to_whole_graph", "speed_once_an_image"} <= row.figures.keys()


def test_everything_finds_what_meta_finds(report: Report) -> None:
    (exact,), (fast,) = rows_of(report, "everything-exact"), rows_of(report, "everything-fast")
    assert exact.figures["masks"] >= 1
    assert (exact.figures["recall"], exact.figures["precision"]) == (1, 1)
    assert exact.mask_iou is not None
    assert exact.mask_iou >= 0.99
    assert exact.figures["decoder_prompts"] == exact.figures["points"] == 9
    assert 0 < fast.figures["decoder_prompts"] <= 9


def test_beginnings_are_measured_on_every_backend(report: Report) -> None:
    assert [row.ours.partition(",")[0] for row in rows_of(report, "first-call")] == ["onnxruntime", "openvino"]
    for row in rows_of(report, "first-call"):
        assert row.own_ratio is not None
        assert row.figures["first"] == max(row.figures["encode_first"], row.figures["decode_first"])
    assert all(row.figures["load_s"] > 0 for row in rows_of(report, "first-mask"))
    assert rows_of(report, "import")[0].figures["import_ms"] > 0


def test_the_report_says_where_and_how(report: Report, output: Path) -> None:
    assert {"processor", "cores", "memory", "onnxruntime", "torch", "date", "command"} <= report.machine.keys()
    assert "targets --models" in report.machine["command"]
    assert (report.settings["rounds"], report.settings["threads"]) == ("1", "1")
    assert (output / "targets.md").read_text().count("\n| ") == len(report.rows) + 2
    with (output / "targets.csv").open(newline="") as file:
        assert [line["row"] for line in csv.DictReader(file)] == [row.row for row in report.rows]


def test_a_row_alone_without_memory(cache: Path, output: Path, tmp_path: Path) -> None:
    done = run(
        cache, "targets", "--rows", "decoder-1", "--models", TINY, "--rounds", "1", "--no-memory",
        "--output", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = read_report(tmp_path / "targets.json").rows
    assert (row.row, row.memory) == ("decoder-1", None)
    assert "Making" not in done.stderr  # the run before left all that is needed


def test_a_reference_that_does_not_run_is_a_sentence_in_its_row(cache: Path, tmp_path: Path) -> None:
    tiny = "seeded:tiny_vit_tiny"
    done = run(cache, "targets", "--rows", "encoder-best", "--models", tiny, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (row,) = read_report(tmp_path / "targets.json").rows
    assert "runs at 1024 px only" in row.skipped
    assert row.outcomes[0].met is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("targets", "--rows", "speed"), "error: --rows: unknown row 'speed'"),
        (("targets", "--rows", "encoder", "--models", "seeded:nothing"), "error: there are no seeded weights"),
        (("targets", "--rounds", "0"), "Invalid value for '--rounds'"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(cache: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(cache, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
