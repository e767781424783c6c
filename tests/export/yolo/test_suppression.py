"""Suppression in the graph: the same rows as the host's, on any detections, and on a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.yolo_models import CONF, DETECTOR, SIDE, SMALL, bundle

import samedge
from samedge.api.yolo import YOLO
from samedge.bundle.archive import bundle_manifest, open_bundle
from samedge.bundle.yolo_record import SuppressionRecord
from samedge.engines.protocol import Engine
from samedge.engines.registry import open_engine
from samedge.errors import UsageError
from samedge.export.exporter import export_model
from samedge.export.yolo.suppression import add_suppression
from samedge.models.yolo.configs import yolo_config
from samedge.runtime.image.read import read_image
from samedge.runtime.yolo.detections import Thresholds, detect
from samedge.types import FloatArray

ASSETS = Path(samedge.__file__).parent / "assets"
BACKENDS = ("onnxruntime", "openvino")
USUAL = SuppressionRecord(conf=0.3, iou=0.5, max_det=6)


@dataclass(frozen=True)
class Case:
    """A graph that does nothing but suppress what it is given."""

    classes: int = 3
    masks: int = 2
    anchors: int | None = None
    record: SuppressionRecord = USUAL

    def write(self, path: Path) -> Path:
        rows = 4 + self.classes + self.masks
        config = replace(yolo_config("n", classes=self.classes, segments=self.masks > 0), prototypes=self.masks)
        ports = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", rows, self.anchors or "a"])
            for name in ("given", "output0")
        ]
        graph = helper.make_graph(
            [helper.make_node("Identity", ["given"], ["output0"], name="it")], "it", ports[:1], ports[1:]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        add_suppression(model, config, self.record, anchors=self.anchors)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(path))
        return path

    def wanted(self, given: FloatArray) -> FloatArray:
        """What the host makes of one image, float32 ``[max_det, 6 + M]``."""
        record = self.record
        kept = detect(
            given, self.classes, Thresholds(record.conf, record.iou, record.max_det, agnostic=record.agnostic)
        )
        rows = np.zeros((record.max_det, 6 + self.masks), np.float32)
        rows[: len(kept)] = np.column_stack([kept.boxes, kept.scores, kept.classes, kept.coefficients])
        return rows


def detections(case: Case, anchors: int, seed: int, *, steps: int = 0) -> FloatArray:
    """Boxes that overlap, float32 ``[2, 4 + C + M, A]``; with steps, scores that are often equal."""
    random = np.random.default_rng(seed)
    boxes = random.uniform(10, 50, (2, 4, anchors))
    scores = random.uniform(0, 1, (2, case.classes, anchors))
    if steps:
        scores = np.round(scores * steps) / steps
    return np.concatenate([boxes, scores, random.normal(size=(2, case.masks, anchors))], 1).astype(np.float32)


CASES = {
    "free": Case(),
    "fixed": Case(anchors=20),
    "fewer anchors than rows": Case(anchors=4),
    "one class": Case(classes=1),
    "a detector": Case(masks=0),
    "across classes": Case(record=SuppressionRecord(conf=0.3, iou=0.5, max_det=6, agnostic=True)),
    "one row": Case(record=SuppressionRecord(conf=0.0, iou=0.9, max_det=1)),
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Engine]]:
    """One engine for each case and backend."""
    folder = tmp_path_factory.mktemp("suppression")
    opened = {}
    for number, (name, case) in enumerate(CASES.items()):
        path = case.write(folder / f"{number}.onnx")
        for backend in BACKENDS:
            opened[name, backend] = open_engine(path, backend=backend, device="cpu", threads=1)
    yield opened
    for engine in opened.values():
        engine.close()


class TestRows:
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("name", CASES)
    @settings(max_examples=15)
    @given(seed=st.integers(0, 1 << 20), anchors=st.integers(1, 40))
    def test_are_the_hosts(
        self, engines: dict[tuple[str, str], Engine], name: str, backend: str, seed: int, anchors: int
    ) -> None:
        case = CASES[name]
        given_ = detections(case, case.anchors or anchors, seed)
        found = engines[name, backend].run({"given": given_})["output0"]
        for one, rows in zip(given_, found, strict=True):
            np.testing.assert_allclose(rows, case.wanted(one), atol=1e-5)

    def test_equal_scores_keep_their_order(self, engines: dict[tuple[str, str], Engine]) -> None:
        case = CASES["free"]
        for seed in range(20):
            given_ = detections(case, 30, seed, steps=4)
            found = engines["free", "onnxruntime"].run({"given": given_})["output0"]
            for one, rows in zip(given_, found, strict=True):
                wanted = case.wanted(one)
                np.testing.assert_array_equal(rows[:, 4], wanted[:, 4])

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_nothing_is_zeros(self, engines: dict[tuple[str, str], Engine], backend: str) -> None:
        given_ = detections(CASES["free"], 12, 0)
        given_[:, 4:7] *= 0.25
        assert not engines["free", backend].run({"given": given_})["output0"].any()

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_boxes_of_the_last_class_keep_their_pixels(self, tmp_path: Path, backend: str) -> None:
        """Shifted apart by class, as it is often done, these two would have an IoU of another size."""
        case = Case(classes=80, masks=0, record=SuppressionRecord(conf=0.3, iou=0.95, max_det=4))
        given_ = np.zeros((1, 84, 2), np.float32)
        given_[0, :4] = [[5.0, 5.0], [5.0, 5.0], [1.0, 1.0], [1.0, 0.952]]
        given_[0, 83] = 0.9, 0.8
        with open_engine(case.write(tmp_path / "a.onnx"), backend=backend, device="cpu") as engine:
            rows = engine.run({"given": given_})["output0"][0]
        np.testing.assert_allclose(rows, case.wanted(given_[0]))
        assert (rows[:, 4] > 0).sum() == 1


class TestModels:
    @pytest.mark.parametrize("dynamic", [True, False])
    @pytest.mark.parametrize("config", [SMALL, DETECTOR], ids=["segmenter", "detector"])
    def test_finds_what_the_host_finds(self, config: Any, dynamic: bool) -> None:
        coffee = read_image(ASSETS / "coffee.jpg")
        found = []
        for nms in (False, True):
            model = YOLO(bundle(config, nms=nms, dynamic=dynamic))
            assert model.predictor.graph.suppressed == nms
            found.append(model(coffee, conf=CONF, max_det=50)[0])
        host, graph = found
        assert host.boxes is not None
        assert graph.boxes is not None
        assert len(host) > 0
        np.testing.assert_allclose(graph.boxes.data, host.boxes.data, atol=1e-4)
        if host.masks is not None:
            assert graph.masks is not None
            np.testing.assert_array_equal(graph.masks.data, host.masks.data)

    def test_what_the_bundle_says(self) -> None:
        manifest = bundle_manifest(bundle(SMALL, nms=True))
        assert manifest.yolo is not None
        assert manifest.yolo.nms == SuppressionRecord(conf=CONF, iou=0.7, max_det=50)
        assert manifest.parity.verdict == "passed"
        assert manifest.graph("yolo").outputs["output0"].shape == ("batch", 50, 10)
        assert manifest.graph("yolo").variant == "default, nms"

    def test_a_threshold_can_only_be_raised(self) -> None:
        model = YOLO(bundle(SMALL, nms=True))
        image = ASSETS / "coffee.jpg"
        (all_of_them,), (lower,), (higher,) = model(image, conf=CONF), model(image, conf=0.001), model(image, conf=0.2)
        assert len(lower) == len(all_of_them) >= len(higher)

    @pytest.mark.parametrize("options", [{"conf": 2.0}, {"iou": -1.0}, {"max_det": 0}])
    def test_numbers_that_mean_nothing(self, tmp_path: Path, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError):
            export_model("seeded:yolov8n", output=tmp_path / "a", nms=True, **options)
        assert not (tmp_path / "a").exists()

    def test_a_file_alone_says_it_too(self) -> None:
        opened = open_bundle(bundle(SMALL, nms=True))
        model = YOLO(opened.graph_path("yolo"))
        assert model.predictor.graph.suppressed
        assert model.predictor.graph.image_size == (SIDE, SIDE)
