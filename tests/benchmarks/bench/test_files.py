"""The table as terminal, Markdown, CSV and JSON, and in the layout of the reference page."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console, RenderableType
from support.bench_rows import model_row, peer_row, report, stage

from samedge.benchmarks.bench.cells import cell, model_table, peer_table, ratio_cell, times
from samedge.benchmarks.bench.files import csv_text, markdown, write_bench
from samedge.benchmarks.bench.measuring import FAILED_PARITY
from samedge.benchmarks.bench.options import COLUMNS
from samedge.benchmarks.bench.records import MaskAgreement, ModelRow, read_bench
from samedge.benchmarks.bench.reference_page import explanation, page_markdown, page_tables
from samedge.benchmarks.measure.rounds import spread_of
from samedge.errors import BenchmarkError, StorageError


def shown(table: RenderableType, width: int = 300) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def cells_of(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [part.strip() for part in line.strip("|").split("|")]


SEEDED = model_row("MobileSAM", seeded=True, mask_agreement=None, empty={"iou": "the weights are random"}, energy=None)
SKIPPED = ModelRow(name="lost", source="lost.pt", skipped="there is no | such file")


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("size", "375"), ("params", "93.7"), ("gflops", "742 + 3.20 per prompt"), ("preprocess", "10.0 / 10.0 / 10.0"),
        ("encode", "800 / 800 / 800"), ("prompt", "90.0 / 90.0 / 90.0"), ("boxes", "400 / 400 / 400"),
        ("everything", "30000 / 30000 / 30000"), ("images", "1.11"), ("rss", "900"), ("device-memory", "–"),
        ("energy", "4.50"), ("iou", "0.9999 (worst 0.9912)"), ("backend", "onnxruntime on cpu (CPUExecutionProvider)"),
        ("parity", "passed"),
    ],
)  # fmt: skip
def test_every_column_says_what_it_means(column: str, text: str) -> None:
    assert cell(model_row(), column) == text
    assert column in COLUMNS


def test_cells_of_what_is_not_known_are_empty_and_failures_are_loud() -> None:
    bare = ModelRow(name="a", source="a")
    assert {cell(bare, column) for column in COLUMNS} == {"–"}
    assert cell(model_row(verdict="failed"), "parity") == "FAILED"
    assert cell(model_row(mask_agreement=MaskAgreement(0.98, None, "")), "iou") == "worst 0.9800"


def test_times_have_three_percentiles_and_their_outliers() -> None:
    assert times(spread_of([0.001] * 9 + [0.1])) == "1.00 / 10.9 / 91.1 (1 outlier)"


def test_markdown_has_every_cell_and_says_why_others_are_empty() -> None:
    text = markdown(report(model_row(), SEEDED, SKIPPED, peer_row()))
    assert cells_of(text, "SAM-b")[1:4] == ["375", "93.7", "742 + 3.20 per prompt"]
    assert cells_of(text, "MobileSAM (random weights)")[13] == "–"
    assert "| lost | skipped: there is no \\| such file |" in text
    assert (
        len({line.replace("\\|", "").count("|") for line in text.split("## Peers")[0].splitlines() if "|" in line}) == 1
    )
    for line in (
        "- MobileSAM, mask IoU: the weights are random.",
        "- SAM-b, device, MB: it runs on the CPU.",
        "- SAM-b, encode: what it includes",
        "- SAM-b, everything: what it includes (decoder prompts 2048, decoder calls 128 over all images)",
        "- SAM-b, an image: preprocess + encode + prompt",
        "- SAM-b: a sentence.",
        "- processor: a fast one",
        "- cpu governor: performance",
        "- threads: 2",
    ):
        assert line in text.splitlines()


def test_peers_have_ratios_and_none_to_a_model_of_which_parity_failed() -> None:
    text = markdown(report(model_row(), peer_row()))
    assert cells_of(text, "SAM-b: meta") == [
        "SAM-b: meta", "–", "1600 ms: 2.00x (2.00–2.00)", "2.20x (2.20–2.20)", "45.0 ms: 0.500x (0.500–0.500)", "–",
        "–", "2.00", "segment-anything 1.0",
    ]  # fmt: skip
    assert ratio_cell(peer_row(own_verdict="unchecked"), "encode") == "1600 ms: 2.00x (2.00–2.00, parity unchecked)"
    refused = peer_row(ratios={}, empty={"ratio": FAILED_PARITY})
    assert ratio_cell(refused, "encode") == "1600 ms: refused"
    failed = markdown(report(model_row(verdict="failed"), refused))
    assert "x (" not in failed.split("## Peers")[1].split("Each peer runs")[0]
    assert FAILED_PARITY in failed
    assert "skipped: not installed" in markdown(report(model_row(), peer_row(skipped="not installed")))


def test_csv_has_one_number_a_column_and_all_rows_the_same() -> None:
    first, second, third = csv.DictReader(io.StringIO(csv_text((model_row(), SKIPPED, peer_row()))))
    assert (first["bytes"], first["parameters"], first["parity"]) == ("375000000", "93735472", "passed")
    assert (first["encode_seconds_p50"], first["encode_seconds_p99"]) == ("0.8", "0.8")
    assert (first["encode_seconds_count"], first["peak_bytes"]) == ("3", "900000000")
    assert (first["joules_per_image"], first["mask_iou_worst"]) == ("4.5", "0.9912")
    assert (second["skipped"], second["bytes"]) == ("there is no | such file", "")
    assert (third["peer_of"], third["encode_ratio"], third["set_image_ratio"]) == ("SAM-b", "2.0", "2.2")


def test_json_comes_back_and_other_files_are_refused(tmp_path: Path) -> None:
    told = report(model_row(), SEEDED, SKIPPED, peer_row())
    paths = write_bench(told, tmp_path / "new", "\nmore\n")
    assert [path.name for path in paths] == ["bench.md", "bench.csv", "bench.json"]
    assert read_bench(paths[-1]) == told
    assert paths[0].read_text().endswith("\nmore\n")
    document = msgspec.json.decode(paths[-1].read_bytes())
    assert (document["kind"], document["schema"]) == ("samedge bench", 1)
    for text, message in (
        ("{", "not a report"),
        ("[]", "not a report"),
        ('{"kind": "samedge bench", "schema": 1}', "not a report"),
        ('{"kind": "samedge bench", "schema": 9}', "samedge bench of schema 9"),
        ('{"schema": 1, "machine": {}, "settings": {}, "rows": []}', "file without kind of schema 1"),
    ):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(BenchmarkError, match=message):
            read_bench(tmp_path / "other.json")
    with pytest.raises(StorageError):
        read_bench(tmp_path / "none.json")


def test_a_wide_terminal_shows_all_and_a_narrow_one_what_tells_most() -> None:
    rows = (model_row(), SEEDED, SKIPPED, peer_row())
    wide, narrow = model_table(rows, COLUMNS, 240), model_table(rows, COLUMNS, 100)
    assert (len(wide.columns), len(narrow.columns)) == (len(COLUMNS) + 1, 7)
    assert "800 / 800 / 800" in shown(wide)
    assert "800 / 800" not in shown(narrow)
    assert "meta" not in shown(wide)
    assert "1600 ms: 2.00x" in shown(peer_table(rows))
    assert len(model_table(rows, ("size", "rss"), 240).columns) == 3


def test_the_reference_page_is_its_four_columns_and_what_they_mean() -> None:
    yolo = model_row(
        "YOLOv8n-seg", family="yolo", size_bytes=13_800_000, parameters=3_404_320,
        stages={"encode": stage(20), "everything": stage(25, masks=4)},
    )  # fmt: skip
    text = page_markdown(report(model_row(), yolo, SKIPPED, peer_row()))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| Model | Size (MB) | Parameters (M) | Speed (CPU) (ms/im) |"
    assert lines[2:4] == ["| SAM-b | 375.0 | 93.7 | 30000 |", "| YOLOv8n-seg | 13.8 | 3.4 | 25.0 |"]
    assert lines[4] == "| Model | Encode (ms) | One prompt (ms) | Everything (ms/im) | Clicks per image | Parity |"
    assert lines[6:] == [
        "| SAM-b | 800 | 90.0 | 30000 | 1,024 | passed |",
        "| YOLOv8n-seg | 20.0 | – | 25.0 | – | passed |",
    ]
    assert "everything-mode figure without prompts" in text
    assert "1,024 clicks per image" in explanation(report(model_row()))
    first, second = page_tables(report(model_row(device="cuda:0"), yolo))
    assert "Speed (CUDA:0, CPU) (ms/im)" in shown(first)
    assert "1,024" in shown(second)
