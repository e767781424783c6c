"""YOLO and FastSAM as bundles: what is in them, and who opens them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from support.bundles import pack, write_small_bundle
from support.yolo_models import CONF, DETECTOR, SIDE, SMALL, bundle, checkpoint

import samedge
from samedge.api.load import load
from samedge.api.yolo import YOLO, FastSAM
from samedge.bundle.archive import bundle_manifest
from samedge.bundle.manifest import MANIFEST_NAME, encode_manifest, read_manifest
from samedge.bundle.yolo_record import YoloRecord
from samedge.engines.onnx_header import read_onnx_metadata
from samedge.errors import BundleError, IntegrityError, ParityError, UsageError
from samedge.export.describe import count_image_gflops
from samedge.models.yolo.configs import named_yolo_config
from samedge.models.yolo.seeded import seeded_yolo
from samedge.runtime.predictor import Predictor
from samedge.runtime.yolo.predictor import YoloPredictor
from samedge.storage.files import sha256_file

COFFEE = Path(samedge.__file__).parent / "assets" / "coffee.jpg"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def copy_of(folder: Path, tmp_path: Path, **changes: Any) -> Path:
    """A bundle with other words in its manifest."""
    copied = tmp_path / "copy"
    copied.mkdir()
    for path in folder.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    manifest = msgspec.structs.replace(read_manifest(copied / MANIFEST_NAME), **changes)
    (copied / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return copied


class TestManifest:
    def test_what_it_says(self) -> None:
        manifest = bundle_manifest(bundle())
        assert manifest.yolo == YoloRecord(
            task="segment", names=("0", "1", "2"), strides=(8, 16, 32), image_size=(SIDE, SIDE), dynamic=True
        )
        model = manifest.model
        assert (model.name, model.checkpoint, model.seeded) == ("yolov8-seg", "small-seg.pt", False)
        assert model.checkpoint_sha256 == sha256_file(checkpoint())
        assert model.parameters == sum(weights.numel() for weights in seeded_yolo(SMALL).parameters())
        assert model.encoder_gflops == pytest.approx(count_image_gflops(seeded_yolo(SMALL), (SIDE, SIDE)))
        assert model.decoder_gflops == 0
        assert {"samedge", "torch", "onnx"} <= manifest.versions.keys()

    def test_the_verdict(self) -> None:
        parity = bundle_manifest(bundle()).parity
        assert (parity.verdict, parity.backend) == ("passed", "onnxruntime cpu")
        assert parity.mask_iou_min >= 0.99
        assert 0 < parity.box_error_max < 0.5
        assert len(parity.rows) == 5
        assert parity.thresholds["box_error_max"] == 0.5

    def test_the_graph_has_named_axes(self) -> None:
        (graph,) = bundle_manifest(bundle()).graphs
        assert graph.role == "yolo"
        assert graph.inputs["images"].shape == ("batch", 3, "height", "width")
        assert graph.outputs["output0"].shape == ("batch", 11, "anchors")
        assert graph.outputs["output1"].shape == ("batch", 4, "mask_height", "mask_width")
        (fixed,) = bundle_manifest(bundle(dynamic=False)).graphs
        assert fixed.inputs["images"].shape == ("batch", 3, SIDE, SIDE)
        assert fixed.outputs["output0"].shape == ("batch", 11, 336)

    def test_the_graph_is_complete_on_its_own(self) -> None:
        folder = bundle()
        (graph,) = bundle_manifest(folder).graphs
        assert read_onnx_metadata(folder / graph.graph.file)["task"] == "segment"
        assert {path.name for path in folder.iterdir()} == {graph.graph.file, MANIFEST_NAME}
        onnx.checker.check_model(str(folder / graph.graph.file), full_check=True)

    def test_a_detector(self) -> None:
        manifest = bundle_manifest(bundle(DETECTOR))
        assert manifest.yolo is not None
        assert (manifest.yolo.task, manifest.yolo.names) == ("detect", ("0", "1"))
        assert manifest.parity.verdict == "passed"

    @pytest.mark.parametrize(("name", "published"), [("yolov8n", 8.7), ("yolov8s", 28.6), ("fastsam-s", 42.6)])
    def test_gflops_are_those_that_are_published(self, name: str, published: float) -> None:
        """For the segmenter Ultralytics' older count is known; it has the prototypes' upsampling at four times."""
        found = count_image_gflops(seeded_yolo(named_yolo_config(name)), (640, 640))
        assert found == pytest.approx(published, rel=0.08)


class TestLoading:
    def test_any_bundle(self, tmp_path: Path) -> None:
        with samedge.load(bundle()) as model, samedge.load(write_small_bundle(tmp_path / "sam")) as sam:
            assert isinstance(model, YoloPredictor)
            assert isinstance(sam, Predictor)
            assert (model.backend, model.device) == ("onnxruntime", "cpu")
            assert model.info == bundle_manifest(bundle())

    def test_one_kind(self, tmp_path: Path) -> None:
        with load(bundle(), kind="yolo") as model:
            assert model.graph.names == {0: "0", 1: "1", 2: "2"}
        with pytest.raises(BundleError, match=r"bundle of a yolov8-seg.*samedge\.YOLO"):
            load(bundle(), kind="sam")
        with pytest.raises(BundleError, match=r"samedge\.SAM"):
            load(write_small_bundle(tmp_path / "sam"), kind="yolo")
        with pytest.raises(BundleError, match=r"samedge\.YOLO"):
            _ = samedge.SAM(bundle()).predictor

    @pytest.mark.parametrize("form", ["folder", "manifest", "file"])
    def test_every_form_finds_the_same(self, tmp_path: Path, form: str) -> None:
        folder = bundle()
        path = {"folder": folder, "manifest": folder / MANIFEST_NAME, "file": tmp_path / "a.samedge"}[form]
        if form == "file":
            pack(folder, path)
        (found,) = YOLO(path)(COFFEE, conf=CONF)
        (wanted,) = YOLO(folder / bundle_manifest(folder).graphs[0].graph.file)(COFFEE, conf=CONF)
        assert found.boxes is not None
        assert wanted.boxes is not None
        np.testing.assert_array_equal(found.boxes.data, wanted.boxes.data)
        assert len(found) > 0

    def test_one_file_is_written_as_well(self, tmp_path: Path) -> None:
        path = samedge.export_model(checkpoint(), output=tmp_path / "a.samedge", image_size=64, check=False)
        assert bundle_manifest(path).parity.verdict == "unchecked"
        assert FastSAM(path).task == "segment"

    def test_prompts(self) -> None:
        model = FastSAM(bundle())
        (box,) = model(COFFEE, bboxes=[[100, 50, 400, 300]], conf=CONF)
        assert len(box) == 1

    def test_a_detector_takes_no_prompts(self) -> None:
        with pytest.raises(UsageError, match=r"the model's task is detect"):
            FastSAM(bundle(DETECTOR))(COFFEE)

    def test_a_bundle_that_failed(self, tmp_path: Path) -> None:
        parity = msgspec.structs.replace(bundle_manifest(bundle()).parity, verdict="failed")
        folder = copy_of(bundle(), tmp_path, parity=parity)
        with pytest.raises(ParityError, match="boxes and masks"):
            YOLO(folder)(COFFEE)
        assert len(YOLO(folder, force=True)(COFFEE, conf=CONF)[0]) > 0

    def test_a_graph_that_is_another(self, tmp_path: Path) -> None:
        graph = bundle_manifest(bundle()).graphs[0]
        wrong = msgspec.structs.replace(graph, outputs={"output0": graph.outputs["output0"]})
        with pytest.raises(IntegrityError, match="output1"):
            YOLO(copy_of(bundle(), tmp_path, graphs=(wrong,)))(COFFEE)


class TestOptions:
    @pytest.mark.parametrize(
        ("source", "options", "message"),
        [
            ("seeded:yolov8n", {"io": "meta"}, "--io: not supported for a YOLO"),
            ("seeded:yolov8n", {"form": "mask"}, "--form: not supported for a YOLO"),
            ("seeded:yolov8n", {"precision": "int8"}, "int8 convolutions need images"),
            ("seeded:yolov8n", {"image_size": 100}, "100 x 100 px is not possible"),
            ("seeded:yolov8n", {"image_size": (64, 100)}, "64 x 100 px is not possible"),
            ("seeded:yolov8q", {}, "no sizes for 'yolov8q'"),
            ("seeded:sam_vit_tiny", {"nms": True}, "--nms: not supported for a SAM"),
            ("seeded:sam_vit_tiny", {"dynamic": False}, "--no-dynamic: not supported for a SAM"),
            ("seeded:sam_vit_tiny", {"image_size": (64, 128)}, "is for a YOLO"),
        ],
    )
    def test_what_means_nothing(self, tmp_path: Path, source: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            samedge.export_model(source, output=tmp_path / "a", check=False, **options)
        assert not (tmp_path / "a").exists()

    def test_an_oblong_input(self, tmp_path: Path) -> None:
        path = samedge.export_model(
            checkpoint(), output=tmp_path / "a", image_size=(64, 128), dynamic=False, check=False
        )
        assert YOLO(path).predictor.graph.image_size == (64, 128)
