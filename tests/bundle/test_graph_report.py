"""Reports on graphs of other exporters: whose they are, their faults, their obstacles for TensorRT."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from support.bundles import write_small_bundle
from support.foreign_graphs import write_graph, write_metas_own

from samedge.bundle.graph_report import report_graph
from samedge.errors import EngineError

FROZEN = "frozen crop"


@pytest.mark.parametrize(
    ("name", "part", "scheme", "fault"),
    [
        ("image", "encoder", "image", ""),
        ("pixel_values", "encoder", "pixel_values", ""),
        ("meta", "decoder", "meta", "orig_im_size is float32"),
        ("meta_single", "decoder", "meta", "one mask, which"),
        ("cvat", "decoder", "cvat", "orig_im_size is float32"),
        ("optimum", "decoder", "optimum", "appends the padding point itself"),
        ("efficientsam", "decoder", "efficientsam", "fills the points up to 6"),
        ("edgesam", "decoder", "edgesam", ""),
    ],
)
def test_graphs_are_told_with_their_faults(tmp_path: Path, name: str, part: str, scheme: str, fault: str) -> None:
    report = report_graph(write_graph(name, tmp_path / "graph.onnx"))
    assert (report.part, report.scheme) == (part, scheme)
    assert report.opset == 17
    assert report.nodes > 10
    faults = " ".join(report.faults)
    assert fault in faults
    assert bool(faults) == bool(fault)
    assert FROZEN not in faults  # ours follow the size


@pytest.mark.parametrize(("package", "frozen"), [("segment_anything", True), ("mobile_sam", False)])
def test_the_frozen_crop_of_the_released_exporter(tmp_path: Path, package: str, frozen: bool) -> None:
    report = report_graph(write_metas_own(tmp_path / "decoder.onnx", package))
    assert (FROZEN in " ".join(report.faults)) == frozen
    assert "orig_im_size sets shapes and is a float: TensorRT takes integers for that" in report.tensorrt
    assert any("OneHot" in reason for reason in report.tensorrt)


def test_native_graphs_can_be_built(tmp_path: Path) -> None:
    folder = write_small_bundle(tmp_path / "small-samedge")
    for role in ("encoder", "decoder"):
        report = report_graph(folder / f"small.{role}.onnx")
        assert report.part == role
        assert report.faults == report.tensorrt == ()


def test_operators_that_tensorrt_lacks(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("a", "b")]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["a"], ["q", "s", "z"]),
        helper.make_node("FusedMatMul", ["a", "a"], ["b"], domain="com.microsoft"),
    ]
    model = helper.make_model(helper.make_graph(nodes, "any", values[:1], values[1:]))
    onnx.save(model, str(tmp_path / "graph.onnx"))
    report = report_graph(tmp_path / "graph.onnx")
    assert report.part == report.exporter == "unknown"
    assert report.tensorrt == (
        "operators of another domain: FusedMatMul",
        "operators that TensorRT lacks: DynamicQuantizeLinear",
    )


def test_what_is_not_onnx_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"anything" * 9)
    with pytest.raises(EngineError, match=r"not an ONNX file.*export the file again"):
        report_graph(tmp_path / "a.onnx")
