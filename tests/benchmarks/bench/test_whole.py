"""The whole command on a small SAM and on a YOLO without weights, with every peer that is installed here.

Nothing here says how long anything takes: what is asserted are sizes, counts, agreement and who was compared with whom.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.bench_rows import command
from support.shared import environment

from samedge.benchmarks.bench.records import BenchReport, ModelRow, read_bench
from samedge.models.sam.configs import SMALL_VIT
from samedge.models.sam.seeded import seeded_state
from samedge.models.yolo.seeded import seeded_yolo

YOLO = "seeded:yolov8n-seg"
SAM = "small.pt"
IMAGES = 2
SIDE = 3
PUBLISHED_GFLOPS = 12.6
"""Of yolov8n-seg at 640 px, by Ultralytics' own table."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is nobody's seed, and two pictures of different shapes."""
    folder = tmp_path_factory.mktemp("bench")
    torch.save(seeded_state(SMALL_VIT, seed=3), folder / SAM)
    random = np.random.default_rng(0)
    for name, (height, width) in {"wide.png": (60, 128), "high.png": (128, 90)}.items():
        blobs = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(blobs, (width, height)))
    return folder


@pytest.fixture(scope="module")
def told(folder: Path) -> BenchReport:
    """What the command said."""
    done = subprocess.run(
        [
            sys.executable, "-m", "samedge", "bench", SAM, YOLO, "--rounds", "2", "--warmup", "0",
            "--everything-rounds", "1", "--everything-points", str(SIDE), "--threads", "1", "--backend", "onnxruntime",
            "--image", "wide.png", "--image", "high.png", "--peers", "--peer", f"fake={shlex.join(command('good'))}",
            "--output", "out",
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**environment(), "SAMEDGE_CACHE": str(folder / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2.00" in done.stdout or "x (" in done.stdout
    assert "Round 2 of 2: everything of seeded:yolov8n-seg" in done.stderr
    return read_bench(folder / "out" / "bench.json")


@pytest.fixture(scope="module")
def rows(told: BenchReport) -> dict[str, ModelRow]:
    """Its rows by name."""
    return {row.name: row for row in told.rows}


def test_models_stand_before_their_peers(told: BenchReport) -> None:
    assert [row.name for row in told.rows] == [
        SAM, f"{SAM}: meta", f"{SAM}: plain-onnx", f"{SAM}: fake", f"{SAM}: ultralytics",
        YOLO, f"{YOLO}: fake", f"{YOLO}: ultralytics",
    ]  # fmt: skip
    assert [row.seeded for row in told.rows] == [False] * 5 + [True] * 3


def test_the_size_is_that_of_the_files_that_run(rows: dict[str, ModelRow]) -> None:
    for name in (SAM, YOLO):
        graphs = Path(rows[name].outputs).glob("*.onnx")
        assert rows[name].size_bytes == sum(file.stat().st_size for file in graphs) > 0


def test_parameters_are_the_numbers_of_the_tensors(rows: dict[str, ModelRow]) -> None:
    state = seeded_state(SMALL_VIT)
    fixed = ("gaussian_matrix", "pixel_mean", "pixel_std")  # numbers that nobody trains
    assert rows[SAM].parameters == sum(value.numel() for key, value in state.items() if not key.endswith(fixed))
    assert rows[YOLO].parameters == sum(value.numel() for value in seeded_yolo("yolov8n-seg").state_dict().values())


def test_operations_are_those_that_are_published(rows: dict[str, ModelRow]) -> None:
    assert rows[YOLO].gflops == pytest.approx(PUBLISHED_GFLOPS, rel=0.06)
    assert rows[YOLO].prompt_gflops is None
    assert rows[SAM].gflops is not None
    assert rows[SAM].prompt_gflops is not None


def test_every_stage_of_a_sam_was_done_on_every_picture(rows: dict[str, ModelRow]) -> None:
    stages = rows[SAM].stages
    assert list(stages) == ["preprocess", "encode", "prompt", "boxes", "everything"]
    assert [stage.wall.count for stage in stages.values()] == [2, 2, 2, 2, 1]
    assert stages["prompt"].figures == {"masks": IMAGES}
    assert stages["boxes"].figures == {"masks": 32 * IMAGES}
    everything = stages["everything"].figures
    assert everything["points"] == everything["decoder_prompts"] == SIDE * SIDE * IMAGES
    assert everything["decoder_calls"] == IMAGES  # nine clicks fit into one call
    assert rows[SAM].image_stages == ("preprocess", "encode", "prompt")
    assert rows[SAM].images_per_second is not None


def test_a_yolo_has_no_prompts_and_says_so(rows: dict[str, ModelRow]) -> None:
    row = rows[YOLO]
    assert list(row.stages) == ["preprocess", "encode", "everything"]
    assert (row.empty["prompt"], row.empty["boxes"]) == ("the model takes no prompts", "the model takes no prompts")
    assert row.image_stages == ("everything",)
    assert row.stages["everything"].wall.count == 2  # one run of the network: not the thousand clicks of a SAM


def test_memory_is_that_of_the_process_and_grows(rows: dict[str, ModelRow]) -> None:
    for name in (SAM, YOLO, f"{SAM}: meta", f"{SAM}: plain-onnx"):
        peaks = [stage.peak_bytes for stage in rows[name].stages.values()]
        assert None not in peaks
        assert peaks == sorted(peaks, key=lambda peak: peak or 0)
        assert rows[name].peak_bytes == peaks[-1]
    own, meta = rows[SAM].peak_bytes, rows[f"{SAM}: meta"].peak_bytes
    assert own is not None
    assert meta is not None
    assert 20e6 < own < meta  # no torch is in the process of a bundle


def test_masks_are_compared_with_torch_only_where_they_mean_something(rows: dict[str, ModelRow]) -> None:
    agreement = rows[SAM].mask_agreement
    assert agreement is not None
    assert agreement.mean is not None
    assert 0.99 <= agreement.worst <= agreement.mean <= 1
    assert agreement.judged == "probe set, masks shown to a user, onnxruntime cpu, in this run"
    assert rows[YOLO].mask_agreement is None
    assert "random" in rows[YOLO].empty["iou"]
    assert any("random weights of the same architecture" in note for note in rows[YOLO].notes)


def test_what_really_ran_is_told(rows: dict[str, ModelRow], told: BenchReport) -> None:
    for name in (SAM, YOLO):
        row = rows[name]
        assert (row.backend, row.device, row.verdict, row.precision) == ("onnxruntime", "cpu", "passed", "fp32")
        assert (row.details["providers"], row.details["threads"]) == ("CPUExecutionProvider", "1")
        assert row.device_memory is None
        assert (row.energy is None) == ("energy" in row.empty)
    assert told.settings["threads"] == "1"


def test_metas_code_finds_the_same_masks_and_is_compared_step_by_step(rows: dict[str, ModelRow]) -> None:
    own, meta, plain = rows[SAM], rows[f"{SAM}: meta"], rows[f"{SAM}: plain-onnx"]
    assert (meta.skipped, plain.skipped) == ("", "")
    assert meta.ratios.keys() == {"preprocess", "encode", "prompt", "boxes", "everything", "set_image"}
    assert plain.ratios.keys() == {"encode", "prompt", "boxes"}
    assert plain.empty["everything"] == "Meta's generator does not run on ONNX"
    assert meta.stages["everything"].figures["masks"] == own.stages["everything"].figures["masks"]
    assert meta.stages["boxes"].figures == plain.stages["boxes"].figures == {"masks": 32 * IMAGES}
    encode = meta.ratios["encode"]
    assert encode.count == 2
    by_round = [
        theirs / mine for mine, theirs in zip(own.stages["encode"].rounds, meta.stages["encode"].rounds, strict=True)
    ]
    assert encode.median == pytest.approx(np.median(by_round))
    assert "segment-anything" in meta.version


def test_any_program_that_speaks_the_protocol_is_a_peer(rows: dict[str, ModelRow]) -> None:
    fake = rows[f"{YOLO}: fake"]
    assert (fake.version, fake.backend) == ("1.2", "nothing")
    assert fake.ratios.keys() == {"preprocess", "encode", "everything", "set_image"}


def test_ultralytics_runs_the_same_weights_in_its_own_process(rows: dict[str, ModelRow]) -> None:
    own, peer = rows[YOLO], rows[f"{YOLO}: ultralytics"]
    if find_spec("ultralytics") is None:
        assert "ultralytics: not installed" in peer.skipped
        return
    assert peer.skipped == ""
    assert peer.version.startswith("ultralytics 8")
    assert peer.ratios.keys() == {"encode", "everything"}
    found, theirs = (row.stages["everything"].figures["masks"] for row in (own, peer))
    assert found > 0
    assert theirs == pytest.approx(found, rel=0.1, abs=2)  # it saves its weights in half precision
    assert "knows SAM by the names of its files" in rows[f"{SAM}: ultralytics"].skipped


def test_the_files_are_there(told: BenchReport, folder: Path) -> None:
    names = {path.name for path in (folder / "out").iterdir()}
    assert {"bench.md", "bench.csv", "bench.json"} <= names
    assert ({"bench.png", "bench.svg"} <= names) == (find_spec("matplotlib") is not None)
    text = (folder / "out" / "bench.md").read_text()
    assert f"| {YOLO} (random weights) |" in text
    assert all(row.name in text for row in told.rows)
