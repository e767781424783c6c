"""int8 linear layers: the arithmetic, the graphs, the ladder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.traced_graphs import run_graph

import samedge
from samedge.bundle.manifest import MANIFEST_NAME, ParityRecord, read_manifest
from samedge.errors import UsageError
from samedge.export import sam_bundle
from samedge.export.exporter import export_model
from samedge.export.precision import int8
from samedge.export.precision import ladder as precision
from samedge.export.precision.calibration import QUANTILE, Calibration, MagnitudeHistogram, activation_ranges
from samedge.export.precision.int8 import linears, quantise_columns, quantise_dynamic, quantise_static
from samedge.parity.compare import INT8_THRESHOLDS
from samedge.types import Array, FloatArray

TINY = "seeded:sam_vit_tiny"
RANDOM = np.random.default_rng(7)


def two_layers() -> onnx.ModelProto:
    """x ``[n, 256]`` through a Gemm (weight transposed, with bias), Relu, and a MatMul, and a small MatMul."""
    weights = {
        "wide": RANDOM.normal(0, 0.05, (512, 256)),
        "bias": RANDOM.normal(0, 0.1, 512),
        "narrow": RANDOM.normal(0, 0.05, (512, 256)),
        "small": RANDOM.normal(0, 0.05, (256, 8)),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "wide", "bias"], ["a"], name="wide", transB=1),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MatMul", ["b", "narrow"], ["c"], name="narrow"),
        helper.make_node("MatMul", ["c", "small"], ["y"], name="small"),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: FloatArray) -> FloatArray:
    onnx.checker.check_model(model, full_check=True)
    out: FloatArray = run_graph(model, {"x": x})[0]
    return out


def relative(have: FloatArray, want: FloatArray) -> float:
    return float(np.abs(have - want).mean() / np.abs(want).mean())


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(-3, 3), st.integers(0, 99))
def test_a_column_is_off_by_half_a_step_at_most(rows: int, columns: int, size: float, seed: int) -> None:
    weight = np.random.default_rng(seed).normal(0, 10**size, (rows, columns)).astype(np.float32)
    weight[:, 0] = 0
    data, scale = quantise_columns(weight)
    assert data.min() >= -127  # -128 would have no opposite
    assert (np.abs(data * scale - weight) <= scale / 2 * 1.001).all()


def test_large_linear_layers_are_found() -> None:
    found = linears(two_layers().graph)
    assert [(linear.node.name, linear.transposed, linear.bias) for linear in found] == [
        ("wide", True, "bias"),
        ("narrow", False, ""),
    ]


def test_dynamic_int8_is_close_and_a_quarter_as_large() -> None:
    model, x = two_layers(), RANDOM.normal(size=(64, 256)).astype(np.float32)
    want, size = run(model, x), model.ByteSize()
    assert quantise_dynamic(model) == 2
    assert [node.op_type for node in model.graph.node] == [
        "DynamicQuantizeMatMul",
        "Relu",
        "DynamicQuantizeMatMul",
        "MatMul",
    ]
    assert model.ByteSize() < size / 3.5
    assert 1e-4 < relative(run(model, x), want) < 0.02


def test_a_layer_can_be_kept() -> None:
    model = two_layers()
    assert quantise_dynamic(model, lambda linear: linear.node.name == "narrow") == 1
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Relu", "DynamicQuantizeMatMul", "MatMul"]


def test_static_int8_is_close_and_symmetric(tmp_path: Path) -> None:
    model, x = two_layers(), RANDOM.normal(size=(64, 256)).astype(np.float32)
    want, size = run(model, x), model.ByteSize()
    names = [linear.activation for linear in linears(model.graph)]
    assert names == ["x", "b"]

    def feeds() -> list[dict[str, Array]]:
        return [{"x": part} for part in np.split(x, 4)]

    ranges = activation_ranges(model, names[1:], Calibration(feeds, 1), tmp_path, threads=1)
    inside = np.maximum(
        x @ numpy_helper.to_array(model.graph.initializer[0]).T + numpy_helper.to_array(model.graph.initializer[1]), 0
    )
    assert ranges["b"] == pytest.approx(float(np.quantile(np.abs(inside), QUANTILE)), rel=0.01)
    assert list(tmp_path.iterdir()) == []
    ranges["x"] = float(np.abs(x).max())
    assert quantise_static(model, ranges) == 2
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")) == (2, 4)
    for tensor in model.graph.initializer:  # TensorRT takes no zero points
        if tensor.name.endswith("_zero"):
            assert not numpy_helper.to_array(tensor).any()
    assert model.ByteSize() < size / 3.5
    assert 1e-4 < relative(run(model, x), want) < 0.03


def layers_that_share() -> onnx.ModelProto:
    """Two halves of x ``[n, 512]`` through one weight, as an encoder takes its tokens in parts."""
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1, name="split"),
        helper.make_node("Gemm", ["a", "weight"], ["c"], name="first"),
        helper.make_node("Gemm", ["b", "weight"], ["d"], name="second"),
        helper.make_node("Concat", ["c", "d"], ["y"], axis=1, name="concat"),
    ]
    weight = np.random.default_rng(3).normal(0, 0.05, (256, 512)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1024])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("way", ["dynamic", "static"])
def test_layers_that_share_a_weight_share_it_in_int8(way: str) -> None:
    model, x = layers_that_share(), RANDOM.normal(size=(64, 512)).astype(np.float32)
    want, size = run(model, x), model.ByteSize()
    changed = quantise_dynamic(model) if way == "dynamic" else quantise_static(model, {"a": 4.5, "b": 4.5})
    assert changed == 2
    assert [tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2] == ["weight_int8"]
    assert model.ByteSize() < size / 3.5
    assert 1e-4 < relative(run(model, x), want) < 0.03


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.floats(-4, 4), st.floats(0.5, 1))
def test_quantiles_are_those_of_all_values(counts: list[int], size: float, share: float) -> None:
    histogram, every = MagnitudeHistogram(), []
    for seed, count in enumerate(counts):
        values = np.random.default_rng(seed).normal(0, 10**size * (seed + 1), count).astype(np.float32)
        histogram.add(values)
        every.append(np.abs(values))
    want = float(np.quantile(np.concatenate(every), share, method="inverted_cdf"))
    assert want <= histogram.quantile(share) * 1.0001
    assert histogram.quantile(share) <= want + 2 * histogram.limit / len(histogram.counts)


class TestLadder:
    """What is slow or wrong is not used. What is right is judged with sam_demo, whose masks mean something."""

    def export(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        ratio: float = 2.0,
        calib: Path | None = None,
        model: str = "sam_demo",
    ) -> Path:
        monkeypatch.setattr(precision, "speed_ratio", lambda *_: ratio)
        if model == TINY:  # whose layers are small
            monkeypatch.setattr(int8, "SMALLEST_LINEAR", 1024)
        return export_model(model, precision="int8", output=folder / "bundle", calib=calib)

    def judge(self, monkeypatch: pytest.MonkeyPatch, *verdicts: ParityRecord) -> None:
        """Put verdicts in place of comparisons of int8."""
        compare, left = sam_bundle._check_parity, iter(verdicts)

        def judged(*others: Any, **named: Any) -> ParityRecord:
            return next(left) if others[-1] == INT8_THRESHOLDS else compare(*others, **named)

        monkeypatch.setattr(sam_bundle, "_check_parity", judged)

    def test_masks_stay_and_linear_layers_are_a_quarter_as_large(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle = self.export(tmp_path, monkeypatch)
        manifest = read_manifest(bundle / MANIFEST_NAME)
        encoder = manifest.graph("encoder")
        assert (encoder.precision, encoder.variant) == ("int8", "chunked, int8 dynamic, every linear layer")
        assert {graph.precision for graph in manifest.graphs if graph.role != "encoder"} == {"fp32"}
        assert manifest.parity.verdict == "passed"
        assert manifest.parity.thresholds == INT8_THRESHOLDS
        assert manifest.parity.mask_iou_mean >= 0.98
        assert manifest.notes == (
            "int8 (every linear layer) ran 2.00 times as fast as float32 on onnxruntime where it was exported",
        )
        assert {path.name for path in bundle.iterdir()} == {MANIFEST_NAME, *(file.file for file in manifest.files)}
        # Of 17.1 MB in float32, 9.8 are in layers that become int8; convolutions and positions are not.
        assert encoder.graph.size < 17_100_000 - 0.74 * 9_830_400
        with samedge.load(bundle, "onnxruntime", threads=1) as predictor:
            predictor.set_image(np.zeros((40, 60, 3), np.uint8))
            assert predictor.predict(points=[20, 20]).masks.shape == (1, 40, 60)

    def test_what_is_not_faster_is_not_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.judge(monkeypatch, ParityRecord(verdict="passed"), ParityRecord(verdict="passed"))
        bundle = self.export(tmp_path, monkeypatch, ratio=0.9, model=TINY)
        manifest = read_manifest(bundle / MANIFEST_NAME)
        assert {graph.precision for graph in manifest.graphs} == {"fp32"}
        assert "embedding_error_max" in manifest.parity.thresholds
        assert len(manifest.notes) == 2
        assert manifest.notes[0].startswith("int8 (every linear layer) is not used: it ran only 0.90 times as fast")
        assert {path.name for path in bundle.iterdir()} == {MANIFEST_NAME, *(file.file for file in manifest.files)}

    def test_what_changes_masks_steps_down(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        failed = ParityRecord(verdict="failed", mask_iou_mean=0.9, mask_iou_decile=0.5)
        self.judge(monkeypatch, failed, ParityRecord(verdict="passed"))
        bundle = self.export(tmp_path, monkeypatch, model=TINY)
        manifest = read_manifest(bundle / MANIFEST_NAME)
        assert manifest.graph("encoder").variant == "chunked, int8 dynamic, all linear layers but those that narrow"
        assert manifest.notes[0] == (
            "int8 (every linear layer) is not used: masks agree with float32 by 0.900 on average and 0.500 in the "
            "worst tenth, and predicted IoUs differ by up to 0.000"
        )

    def test_static_int8_is_measured_on_images(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        images = Path(samedge.__file__).parent / "assets"
        bundle = self.export(tmp_path, monkeypatch, calib=images)
        manifest = read_manifest(bundle / MANIFEST_NAME)
        encoder = manifest.graph("encoder")
        assert encoder.variant.startswith("chunked, int8 static")
        assert manifest.parity.mask_iou_mean >= 0.98
        graph = onnx.load(bundle / encoder.graph.file).graph
        assert {node.domain for node in graph.node} == {""}
        # 16 where OpenVINO, without instructions for int8, only keeps masks with the layers that do not narrow.
        assert sum(node.op_type == "QuantizeLinear" for node in graph.node) >= 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8", "io": "samexporter"}, "int8 is not supported in the samexporter scheme"),
        ({"calib": "."}, "calibration images are only for int8 and fp8"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        export_model("sam_demo", output=tmp_path / "x", **options)  # type: ignore[arg-type]
