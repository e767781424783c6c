"""The commands on graphs of other exporters."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.foreign_graphs import write_pair
from support.program import Program

from samedge.api.sam import SAM
from samedge.benchmarks.bench.contenders import prepare
from samedge.bundle.archive import bundle_manifest


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


def test_inspect_shows_whose_graph_it_is(tmp_path: Path, program: Program) -> None:
    folder = write_pair("pixel_values", "optimum", tmp_path / "pair")
    done = program("inspect", folder / "toy_decoder.onnx")
    assert done.status == 0, done.err
    shown = " ".join(done.out.split())
    for part in ("decoder: optimum", "appends the padding point itself", "input_points", "int64", "pred_masks"):
        assert part in shown
    document = json.loads(program("inspect", folder, "--json").out)
    assert [each["part"] for each in document] == ["decoder", "encoder"]
    assert document[1]["inputs"]["pixel_values"]["dtype"] == "float32"
    (tmp_path / "empty").mkdir()
    assert "there are no ONNX graphs" in program("inspect", tmp_path / "empty").err


def test_import_makes_a_bundle(tmp_path: Path, image: Path, program: Program) -> None:
    folder = write_pair("input_image_hwc", "meta", tmp_path / "pair")
    target = tmp_path / "mine-samedge"
    done = program("import", folder, "-o", target, "--licence", "MIT", "--name", "mine")
    assert done.status == 0, done.err
    assert done.out.splitlines()[-1] == str(target)
    manifest = bundle_manifest(target)
    assert (manifest.model.name, manifest.model.licence, manifest.io) == ("mine", "MIT", "input_image_hwc+meta")
    assert {path.name for path in target.iterdir()} == {"manifest.json", "toy_encoder.onnx", "toy_decoder.onnx"}
    assert "there is something at this path" in program("import", folder, "-o", target).err
    (folder / "toy_encoder.onnx").unlink()
    assert program("predict", target, image, "--box", "5,5,60,40").status == 0
    assert "already a bundle" in program("import", target).err


@pytest.mark.parametrize(("encoder", "decoder", "prompts"), [("image", "meta", 5), ("pixel_values", "optimum", 2)])
def test_verify_compares_backends(tmp_path: Path, program: Program, encoder: str, decoder: str, prompts: int) -> None:
    folder = write_pair(encoder, decoder, tmp_path / "pair")
    done = program("verify", folder, "--backend", "openvino", "--json")
    assert done.status == 0, done.err
    record = json.loads(done.out)
    assert record["verdict"] == "passed"
    assert record["backend"].endswith("as onnxruntime cpu")
    assert len(record["rows"]) == 5 * prompts


def test_bench_and_sam_take_a_folder_or_a_graph(tmp_path: Path, image: Path) -> None:
    folder = write_pair("image", "edgesam", tmp_path / "pair")
    for model in (folder, folder / "toy_encoder.onnx"):
        prepared = prepare(str(model), "onnxruntime", None, None)
        assert (prepared["verdict"], prepared["image_size"], prepared["architecture"]) == ("unchecked", 128, "toy")
        (found,) = SAM(model, backend="onnxruntime")(image, points=[40, 30], conf=None)
        assert found.masks is not None
        assert found.masks.data.shape == (1, 60, 80)
