"""Ultralytics' SAM under ``samedge bench``, on MobileSAM's true architecture; the whole command's test has the YOLO."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
from support.bench_rows import opening

from samedge.benchmarks.bench.contenders import ULTRALYTICS_SCRIPT
from samedge.benchmarks.bench.options import prompts_for
from samedge.benchmarks.bench.stages.measured_process import MeasuredProcess
from samedge.benchmarks.measure.artefacts import IMAGES, Artefacts
from samedge.errors import BenchmarkError

pytestmark = pytest.mark.integration

COMMAND = (sys.executable, str(ULTRALYTICS_SCRIPT))
installed = pytest.mark.skipif(find_spec("ultralytics") is None, reason="Ultralytics is an optional peer")


def test_where_it_is_not_installed_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(sys.executable)  # outside its virtual environment: no packages at all
    with MeasuredProcess((str(tmp_path / "python"), "-I", "-S", str(ULTRALYTICS_SCRIPT)), "ultralytics") as process:
        hello = process.hello()
    assert not hello.can
    assert hello.reason.startswith("ultralytics, torch, torchvision: not installed in")


@installed
def test_a_sam_that_it_does_not_know_by_name_is_refused() -> None:
    with MeasuredProcess(COMMAND, "ultralytics") as process:
        assert process.hello().version.startswith("ultralytics 8")
        with pytest.raises(BenchmarkError, match="no file with the weights"):
            process.open(opening("small"))


@installed
def test_its_sam_answers_prompts_with_the_weights_that_it_is_given(tmp_path: Path) -> None:
    images = tuple(str(path) for path in IMAGES[:1])
    prompts = prompts_for(images)
    asked = msgspec.structs.replace(
        opening("MobileSAM"),
        architecture="mobile_sam",
        source="seeded:mobile_sam",
        weights=str(Artefacts(tmp_path).seeded_file("seeded:mobile_sam")),
        images=images,
        points=prompts.points,
        boxes=prompts.boxes,
        image_size=1024,
        everything={"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
    )
    with MeasuredProcess(COMMAND, "ultralytics") as process:
        process.hello()
        opened = process.open(asked)
        assert opened.stages.keys() == {"set_image", "prompt", "boxes", "everything"}
        assert opened.without.keys() == {"preprocess", "encode"}
        encoded = process.run("set_image")
        assert encoded.wall > 0
        assert encoded.peak is not None
        assert process.run("prompt").figures["masks"] == 1
        assert process.run("boxes").figures["masks"] == 32
        assert process.run("everything").figures["masks"] > 0
