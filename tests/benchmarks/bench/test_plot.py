"""The picture of speed, size and agreement."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import pytest
from support.bench_rows import model_row, peer_row, report

from samedge.benchmarks.bench.plot import points, write_plot
from samedge.benchmarks.bench.records import ModelRow
from samedge.errors import MissingExtraError

ROWS = (
    model_row(),
    model_row("MobileSAM", seeded=True, mask_agreement=None, size_bytes=45_000_000),
    model_row("broken", verdict="failed", size_bytes=90_000_000),
    ModelRow(name="lost", source="lost.pt", skipped="no such file"),
    peer_row(),
)


def test_a_point_is_a_model_at_its_time_an_image_and_its_size() -> None:
    found = points(ROWS)
    assert [row.name for row, _, _ in found] == ["SAM-b", "MobileSAM", "broken"]
    assert found[0][1] == pytest.approx(900)
    assert found[0][2] == 375


def test_png_and_svg_are_written_and_the_same_report_is_the_same_file(tmp_path: Path) -> None:
    png, svg = write_plot(report(*ROWS), tmp_path)
    image = cv2.imread(str(png))
    assert image is not None
    assert image.shape == (750, 1200, 3)
    text = svg.read_text()
    for name in ("SAM-b", "MobileSAM (random weights)", "agreement not measured", "worst mask IoU against torch, fp32"):
        assert f"<!-- {name} -->" in text
    assert "<!-- lost -->" not in text
    again = tmp_path / "again"
    assert write_plot(report(*ROWS), again)[1].read_bytes() == svg.read_bytes()


def test_where_nothing_can_be_drawn_nothing_is_written(tmp_path: Path) -> None:
    assert write_plot(report(ROWS[3]), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"The plot needs the package 'matplotlib'.*samedge\[bench\]"):
        write_plot(report(*ROWS), tmp_path)
