"""int8 convolutions: the arithmetic, concatenations, which layers, and the gate."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.yolo_models import DETECTOR, SMALL, bundle, checkpoint

import samedge
from samedge.api.load import load
from samedge.benchmarks.measure.facts import measured_where
from samedge.bundle.archive import bundle_manifest, open_bundle
from samedge.bundle.manifest import ObjectsRecord
from samedge.engines.registry import open_engine
from samedge.errors import UsageError
from samedge.export.precision import ladder as precision
from samedge.export.precision.int8 import convolutions, quantise_along, quantise_layers
from samedge.export.yolo import int8 as yolo_int8
from samedge.export.yolo.agreement import agreement, verdict_of
from samedge.models.yolo.yolo import YoloConfig
from samedge.runtime.image.read import read_image
from samedge.types import FloatArray

ASSETS = Path(samedge.__file__).parent / "assets"
RANDOM = np.random.default_rng(3)
RANGE = 3.0


def network(joined: str, kernel: int) -> onnx.ModelProto:
    """A convolution of what is joined: x ``[1, 16, 12, 12]`` beside itself in another form."""
    form = {
        "sigmoid": helper.make_node("Sigmoid", ["x"], ["other"], name="other"),
        "sum": helper.make_node("Add", ["x", "x"], ["other"], name="other"),
        "part": helper.make_node("Slice", ["x", "from", "to", "axis"], ["other"], name="other"),
    }[joined]
    channels = 24 if joined == "part" else 32
    constants = {
        "w": RANDOM.normal(0, 0.1, (8, channels, kernel, kernel)).astype(np.float32),
        "from": np.array([0]),
        "to": np.array([8]),
        "axis": np.array([1]),
    }
    nodes = [
        form,
        helper.make_node("Concat", ["x", "other"], ["both"], name="both", axis=1),
        helper.make_node("Conv", ["both", "w"], ["y"], name="conv", pads=[kernel // 2] * 4),
    ]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 12, 12]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 12, 12]),
    ]
    graph = helper.make_graph(
        nodes,
        "joined",
        ports[:1],
        ports[1:],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, backend: str, path: Path, x: FloatArray) -> FloatArray:
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    with open_engine(path, backend=backend, device="cpu", threads=1) as engine:
        out: FloatArray = engine.run({"x": x})["y"]
    return out


class TestConvolutions:
    def test_weights_have_a_scale_for_each_output(self) -> None:
        weight = RANDOM.normal(0, 1, (6, 4, 3, 3)).astype(np.float32) * np.arange(6).reshape(-1, 1, 1, 1)
        data, scale = quantise_along(weight.astype(np.float32), 0)
        assert data.dtype == np.int8
        np.testing.assert_allclose(scale[1:], np.abs(weight[1:]).max((1, 2, 3)) / 127, rtol=1e-6)
        np.testing.assert_allclose(data * scale.reshape(-1, 1, 1, 1), weight, atol=float(scale.max()) / 2 + 1e-6)

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    @pytest.mark.parametrize("kernel", [1, 3])
    @pytest.mark.parametrize("joined", ["sigmoid", "sum", "part"])
    def test_what_is_joined_is_quantised_before(self, tmp_path: Path, joined: str, kernel: int, backend: str) -> None:
        """OpenVINO loses the scale of a quantisation that stands behind a concatenation."""
        model = network(joined, kernel)
        x = RANDOM.normal(0, 1, (1, 16, 12, 12)).astype(np.float32)
        exact = run(model, "onnxruntime", tmp_path / "a.onnx", x)
        assert quantise_layers(model, {"both": RANGE}, convolutions(model.graph)) == 1
        kinds = [node.op_type for node in model.graph.node]
        assert kinds.index("Concat") > max(at for at, kind in enumerate(kinds) if kind == "QuantizeLinear")
        found = run(model, backend, tmp_path / "b.onnx", x)
        other = {"sigmoid": 1 / (1 + np.exp(-x)), "sum": 2 * x, "part": x[:, :8]}[joined]
        step = np.float32(RANGE / 127)
        clipped = np.abs(np.concatenate([x, other], 1)).max() - RANGE
        # Half a step an input, weights a 254th of their largest, and what lies outside of the range.
        weight = numpy_helper.to_array(network(joined, kernel).graph.initializer[0])
        bound = np.abs(weight).sum((1, 2, 3)).max() * (step + max(clipped, 0) * 0.2) * 1.5
        assert np.abs(found - exact).max() <= bound
        assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.98

    def test_the_backends_say_the_same(self, tmp_path: Path) -> None:
        model = network("sum", 3)
        x = RANDOM.normal(0, 1, (1, 16, 12, 12)).astype(np.float32)
        quantise_layers(model, {"both": RANGE}, convolutions(model.graph))
        both = [run(model, backend, tmp_path / "a.onnx", x) for backend in ("onnxruntime", "openvino")]
        # One step of one input, where a tie is broken. Without instructions for int8, OpenVINO's weights have 7 bits.
        exact = {"avx512_vnni", "avx_vnni", "asimddp"} & set(measured_where("")["instructions"].split(", "))
        np.testing.assert_allclose(both[0], both[1], atol=1e-2 if exact else 0.2)

    def test_a_concatenation_that_others_read_stays(self) -> None:
        model = network("sum", 1)
        model.graph.node.append(helper.make_node("Relu", ["both"], ["z"], name="relu"))
        model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 32, 12, 12]))
        quantise_layers(model, {"both": RANGE}, convolutions(model.graph))
        onnx.checker.check_model(model, full_check=True)
        (concat,) = [node for node in model.graph.node if node.op_type == "Concat"]
        assert list(concat.input) == ["x", "other"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("coffee", "scene"):
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(read_image(ASSETS / f"{name}.jpg"), (160, 120)))
    return folder


def export(
    config: YoloConfig, pictures: Path, monkeypatch: pytest.MonkeyPatch, ratio: float = 2.0, *, good: bool = True
) -> Path:
    """An export in int8 where the clock and the agreement say what is wanted."""
    figures = ObjectsRecord(images=2, objects=8, found=1.0 if good else 0.5, box_iou=0.99, mask_iou=0.99)
    monkeypatch.setattr(precision, "speed_ratio", lambda *_: ratio)
    monkeypatch.setattr(yolo_int8, "agreement", lambda *_: figures)
    return samedge.export_model(
        checkpoint(config), output=pictures.parent / "int8", precision="int8", calib=pictures, image_size=64, nms=False
    )


class TestGate:
    def test_int8_is_used_where_it_agrees_and_is_faster(self, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = export(SMALL, pictures, monkeypatch)
        manifest = bundle_manifest(path)
        (graph,) = manifest.graphs
        assert graph.precision == "int8"
        assert graph.variant == "default, int8 static, every convolution before an activation"
        assert manifest.parity.objects is not None
        assert manifest.parity.verdict == "passed"
        assert "2.00 times as fast" in manifest.notes[0]
        model = onnx.load(str(path / graph.graph.file))
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        layers = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
        kept = sorted(name for name in layers if name in weights)
        last = [f"model.22.{cv}.{level}.2.weight" for cv in ("cv2", "cv3", "cv4") for level in range(3)]
        assert kept == sorted([*last, "model.22.dfl.conv.weight"])
        zeros = [numpy_helper.to_array(tensor) for name, tensor in weights.items() if name.endswith("_zero")]
        assert not any(zero.any() for zero in zeros)  # TensorRT takes no zero points
        with load(path, "onnxruntime", kind="yolo") as predictor:
            assert predictor.predict(ASSETS / "coffee.jpg").speed["inference"] is not None

    @pytest.mark.parametrize(("ratio", "good", "why"), [(0.9, True, "0.90 times as fast"), (2.0, False, "50.0% of 8")])
    def test_and_else_it_is_not(
        self, pictures: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, good: bool, why: str
    ) -> None:
        path = export(SMALL, pictures, monkeypatch, ratio, good=good)
        manifest = bundle_manifest(path)
        assert manifest.graphs[0].precision == "fp32"
        assert len(manifest.notes) == 2
        assert all(why in note for note in manifest.notes)
        assert {file.name for file in path.iterdir()} == {manifest.graphs[0].graph.file, "manifest.json"}

    def test_the_head_can_stay(self, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        figures = iter([0.5, 1.0])
        monkeypatch.setattr(precision, "speed_ratio", lambda *_: 1.5)
        monkeypatch.setattr(yolo_int8, "agreement", lambda *_: ObjectsRecord(2, 8, next(figures), 0.99, None))
        path = samedge.export_model(
            checkpoint(DETECTOR), output=pictures.parent / "b", precision="int8", calib=pictures, image_size=64,
            nms=True, conf=0.01,
        )  # fmt: skip
        manifest = bundle_manifest(path)
        assert manifest.graphs[0].variant == "default, int8 static, the convolutions before the head, nms"
        assert manifest.notes[0].startswith("int8 (every convolution before an activation) is not used")
        model = onnx.load(str(open_bundle(path).graph_path("yolo")))
        head = [layer for layer in convolutions(model.graph) if layer.weight.startswith("model.22.")]
        assert len(head) == 2 * 3 * 3 + 1

    def test_it_needs_images(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="needs calibration images"):
            samedge.export_model(checkpoint(), output=tmp_path / "a", precision="int8")


class TestAgreement:
    def test_a_graph_agrees_with_itself(self) -> None:
        with load(bundle(), kind="yolo") as model:
            found = agreement(model, model, [ASSETS / "coffee.jpg"], conf=0.05)
        assert found.objects > 4
        assert found.found == 1
        assert found.box_iou == pytest.approx(1)
        assert found.mask_iou == pytest.approx(1)
        assert verdict_of(found) == "passed"

    def test_another_model_does_not(self, tmp_path: Path) -> None:
        shifted = onnx.load(str(open_bundle(bundle()).graph_path("yolo")))
        for tensor in shifted.graph.initializer:
            if tensor.name == "model.22.cv3.0.2.weight":
                tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
        onnx.save(shifted, str(tmp_path / "other.onnx"))
        other = samedge.YOLO(tmp_path / "other.onnx", force=True)
        with load(bundle(), kind="yolo") as model:
            found = agreement(model, other.predictor, [ASSETS / "coffee.jpg"], conf=0.05)
        assert found.found < 0.9
        assert verdict_of(found) == "failed"

    def test_no_objects_say_nothing(self) -> None:
        assert verdict_of(ObjectsRecord(2, 0, 0.0, 0.0, None)) == "failed"
        assert "no objects in the 2 images" in ObjectsRecord(2, 0, 0.0, 0.0, None).sentence
        assert "mask" not in ObjectsRecord(2, 3, 1.0, 1.0, None).sentence
