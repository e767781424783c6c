"""Which weights a name means, and random ones where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from samedge.benchmarks.bench.options import COLUMNS, BenchOptions, prompts_for
from samedge.benchmarks.bench.sources import ModelSource, architecture_of, model_sources
from samedge.errors import StorageError, UsageError


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, an empty cache, and a server that is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SAMEDGE_MIRROR", "http://127.0.0.1:9")
    return tmp_path


def test_without_a_name_there_are_five_rows_and_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samedge.benchmarks.bench.sources.find_checkpoint", pytest.fail)
    rows = model_sources(())
    assert [(row.name, row.source) for row in rows] == [
        ("SAM-b", "seeded:sam_vit_b"), ("MobileSAM", "seeded:mobile_sam"), ("FastSAM-s", "seeded:fastsam-s"),
        ("YOLOv8n-seg", "seeded:yolov8n-seg"), ("sam_demo", "sam_demo"),
    ]  # fmt: skip
    assert [row.seeded for row in rows] == [True] * 4 + [False]
    assert rows[0].note == "no weights: sam_b.pt or sam_vit_b_01ec64.pth is not on this machine"


def test_weights_that_are_at_hand_are_taken(nowhere: Path) -> None:
    (nowhere / "sam_vit_b_01ec64.pth").touch()
    kept = nowhere / "cache" / "weights"
    kept.mkdir(parents=True)
    (kept / "mobile_sam.pt").touch()
    rows = {row.name: row for row in model_sources(())}
    assert rows["SAM-b"] == ModelSource("SAM-b", "sam_vit_b_01ec64.pth")
    assert rows["MobileSAM"] == ModelSource("MobileSAM", "mobile_sam.pt")
    assert model_sources(["mobilesam"]) == (rows["MobileSAM"],)


def test_a_released_file_that_cannot_be_had_gives_way_to_random_weights() -> None:
    sam, yolo = model_sources(["sam_l.pt", "yolov8m-seg.pt"])
    assert (sam.name, sam.source) == ("sam_l.pt", "seeded:sam_vit_l")
    assert sam.note.startswith("no weights: sam_l.pt is not on this machine and could not be fetched")
    assert yolo.source == "seeded:yolov8m-seg"
    assert yolo.note.startswith("no weights: yolov8m-seg.pt is not on this machine and could not be fetched")


def test_files_folders_and_seeds_are_what_they_are(nowhere: Path) -> None:
    (nowhere / "mine").mkdir()
    (nowhere / "mine" / "sam_b.pt").touch()
    (nowhere / "bundle").mkdir()
    rows = model_sources([str(nowhere / "mine" / "sam_b.pt"), "bundle", "seeded:sam_vit_tiny"])
    assert [row.name for row in rows] == ["sam_b.pt", "bundle", "seeded:sam_vit_tiny"]
    assert [row.seeded for row in rows] == [False, False, True]


@pytest.mark.parametrize("model", ["nothing.pt", "mine/sam_b.pt", "yolov9.pt"])
def test_what_is_not_there_is_an_error(model: str) -> None:
    with pytest.raises(StorageError, match="no such file"):
        model_sources([model])


def test_two_rows_of_one_name_are_refused(nowhere: Path) -> None:
    for folder in ("a", "b"):
        (nowhere / folder).mkdir()
        (nowhere / folder / "it.pt").touch()
    with pytest.raises(UsageError, match=r"two models are called 'it.pt'"):
        model_sources(["a/it.pt", "b/it.pt"])


@pytest.mark.parametrize(
    ("file", "architecture"),
    [
        ("FastSAM-x.pt", "fastsam-x"), ("yolov8n.pt", "yolov8n"), ("dir/yolov8x-seg.pt", "yolov8x-seg"),
        ("sam_h.pt", "sam_vit_h"), ("yolov8q.pt", None), ("yolov8n-pose.pt", None),
    ],
)  # fmt: skip
def test_architectures_of_released_files(file: str, architecture: str | None) -> None:
    assert architecture_of(file) == architecture


def test_options_that_mean_nothing() -> None:
    with pytest.raises(UsageError, match=r"--columns: unknown column 'speed'.*Choose from: size"):
        BenchOptions(columns=("size", "speed"))
    with pytest.raises(UsageError, match="--mode: unknown mode 'quick'"):
        BenchOptions(mode="quick")  # type: ignore[arg-type]  # what a user may give
    with pytest.raises(UsageError, match="--everything-points: invalid everything_points: 0"):
        BenchOptions(everything_points=0)
    with pytest.raises(UsageError, match="--image: no image given"):
        BenchOptions(images=())
    assert BenchOptions().wants("rss", "nothing")
    assert not BenchOptions(columns=("size",)).wants("rss")
    assert len(set(COLUMNS)) == len(COLUMNS) == 15


def test_prompts_lie_in_the_picture_and_are_the_same_every_time() -> None:
    images = BenchOptions().images
    prompts = prompts_for(images)
    assert prompts == prompts_for(images)
    assert [len(boxes) for boxes in prompts.boxes] == [32, 32]
    (x, y), boxes = prompts.points[0], prompts.boxes[0]
    for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 < x2 <= 2 * x
        assert 0 <= y1 < y2 <= 2 * y
