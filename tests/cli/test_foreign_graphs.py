"""The commands on graphs of other exporters."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.foreign_graphs import write_pair
from support.program import Program


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    return path


@pytest.mark.parametrize("named", ["", "toy_encoder.onnx", "toy_decoder.onnx"])
def test_a_folder_or_one_of_its_graphs_predicts(tmp_path: Path, image: Path, named: str, program: Program) -> None:
    folder = write_pair("image", "edgesam", tmp_path / "pair")
    done = program("predict", folder / named, image, "--point", "40,30", "--json", "-", "--backend", "onnxruntime")
    assert done.status == 0, done.err
    (record,) = json.loads(done.out)["images"]
    assert len(record["objects"]) == 1


def test_info_says_what_was_guessed(tmp_path: Path, program: Program) -> None:
    folder = write_pair("input_image_hwc", "meta", tmp_path / "pair")
    done = program("info", folder)
    assert done.status == 0, done.err
    shown = " ".join(done.out.split())
    assert "input_image_hwc+meta" in shown
    assert "unchecked" in shown
    assert "input 128 px assumed" in shown
