"""float16 graphs: valid, strongly typed, close to float32, and careful with what float16 cannot carry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper
from support.traced_graphs import SMALL_GRAPHS, VIT, random_feeds, run_graph, traced

from samedge.errors import ExportError, UsageError
from samedge.export.graphs.graph_view import GraphView, attributes_of
from samedge.export.precision.half import HALF_RUNGS, HalfReport, to_half
from samedge.types import EncoderForm, FloatArray

LOWER = HALF_RUNGS[:-1]
F32, F16, I64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def check(model: onnx.ModelProto) -> None:
    """The checks that every graph must pass."""
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert not list(casts_of_casts(model))


def casts_of_casts(model: onnx.ModelProto) -> Iterator[str]:
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    return (node.name for node in casts.values() if node.input[0] in casts)


def ports(model: onnx.ModelProto) -> list[tuple[str, int]]:
    return [(v.name, v.type.tensor_type.elem_type) for v in (*model.graph.input, *model.graph.output)]


def small(
    nodes: list[onnx.NodeProto], constants: dict[str, ArrayLike], outputs: tuple[str, ...] = ("y",), opset: int = 17
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", F32, ["n", 4])],
        [helper.make_tensor_value_info(name, F32, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model)  # the shapes of the outputs
    return inferred


def wide(*shape: int) -> FloatArray:
    return np.random.default_rng(1).normal(0, 0.2, shape).astype(np.float32)


LAYERS = {"w": wide(4, 512), "v": wide(512, 4)}
"""Large enough to be layers: what lies between them is the body."""


def body(
    *middle: onnx.NodeProto, constants: dict[str, ArrayLike] | None = None, outputs: tuple[str, ...] = ("y",)
) -> onnx.ModelProto:
    """x through a layer to a, through the middle to b, through a layer to y."""
    first, last = helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["b", "v"], ["y"])
    return small([first, *middle, last], {**LAYERS, **(constants or {})}, outputs)


def types(model: onnx.ModelProto) -> dict[str, int]:
    view = GraphView(model)
    return {name: view.element_type(name) for node in view.nodes for name in node.output}


class TestEveryModel:
    @pytest.mark.parametrize("rung", LOWER)
    @pytest.mark.parametrize(("source", "role", "form"), SMALL_GRAPHS)
    def test_is_valid_half_as_large_and_close(self, source: str, role: str, form: EncoderForm, rung: str) -> None:
        model, before = traced(source, role, form), traced(source, role, form)
        report = to_half(model, rung)
        check(model)
        assert ports(model) == ports(before)
        assert isinstance(report, HalfReport)
        assert (report.rung, report.clipped_constants) == (rung, 0)
        added = len(model.graph.node) - len(before.graph.node)
        assert report.casts == added > 0
        if role != "decoder_context":  # of which little is a layer
            assert model.ByteSize() < 0.53 * before.ByteSize()
            assert report.fp16_nodes > report.fp32_nodes or rung == "fp16-attention"
        feeds = random_feeds(before)
        limit = 0.02 if role == "yolo" else 2e-3  # boxes of random weights are between bins that are 8 to 32 px wide
        for want, have in zip(run_graph(before, feeds), run_graph(model, feeds), strict=True):
            assert have.dtype == np.float32
            assert np.abs(have - want).max() < limit * np.abs(want).max()

    @pytest.mark.parametrize("role", ["encoder", "decoder"])
    def test_meta_s_and_samexporter_s_graphs_compute_sizes_exactly(self, role: str) -> None:
        model, before = traced(VIT, role, io="samexporter"), traced(VIT, role, io="samexporter")
        to_half(model, "fp16")
        check(model)
        feeds = random_feeds(before)
        if role == "decoder":
            feeds["point_labels"] = np.array([[1, 0, 2, 3, -1]], np.float32)
            feeds["orig_im_size"] = np.array([3001, 207], np.float32)  # 3001 is not a number of float16
        else:
            feeds["input_image"] = 50 * feeds["input_image"] + 127
        for want, have in zip(run_graph(before, feeds), run_graph(model, feeds), strict=True):
            assert have.shape == want.shape
            assert np.abs(have - want).max() < 2e-3 * np.abs(want).max()

    @pytest.mark.parametrize("rung", LOWER)
    def test_what_is_float32_on_each_rung(self, rung: str) -> None:
        for role in ("encoder", "decoder", "decoder_prompts"):
            model = traced(VIT, role)
            to_half(model, rung)
            found = types(model)
            for node in model.graph.node:
                kind = found[node.output[0]]
                if node.op_type in ("Gemm", "Conv", "ConvTranspose"):
                    small_weight = np.prod(GraphView(model).constants[node.input[1]].dims) < 1024
                    assert kind == F16 or small_weight
                elif node.op_type in ("Sin", "Cos", "Sqrt", "ReduceMean"):
                    assert kind == F32
                elif node.op_type in ("LayerNormalization", "Softmax", "Exp", "ReduceSum"):
                    assert kind == (F16 if rung == "fp16" else F32)
            products = [found[n.output[0]] for n in model.graph.node if n.op_type == "MatMul" and of_two(model, n)]
            drawing = role == "decoder"  # its last product is of masks and their weights
            assert len(products) == {"encoder": 8, "decoder": 15, "decoder_prompts": 14}[role]
            assert products.count(F16) == (drawing if rung == "fp16-attention" else len(products))

    def test_the_last_rung_changes_nothing(self) -> None:
        model, before = traced(VIT, "decoder"), traced(VIT, "decoder")
        report = to_half(model, "fp32")
        assert model == before
        assert (report.fp16_nodes, report.casts) == (0, 0)
        assert report.fp32_nodes > 200

    def test_each_rung_keeps_more(self) -> None:
        counts = [to_half(traced(VIT, "encoder"), rung).fp32_nodes for rung in HALF_RUNGS]
        assert counts == sorted(set(counts))

    def test_needs_no_torch(self) -> None:
        code = "import sys, samedge.export.precision.half; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def of_two(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    constants = {tensor.name for tensor in model.graph.initializer}
    return not constants.intersection(node.input)


def test_an_unknown_rung() -> None:
    with pytest.raises(UsageError, match=r"unknown rung 'fp12'.*fp16-norms"):
        to_half(traced(VIT, "decoder_masks"), "fp12")


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph([], "branch", [], [helper.make_tensor_value_info("a", F32, None)])
    node = helper.make_node("If", ["c"], ["b"], then_branch=branch, else_branch=branch)
    with pytest.raises(ExportError, match="has a If node"):
        to_half(body(node, constants={"c": np.array(True)}), "fp16")


class TestRange:
    def test_weights_beyond_float16_are_clipped_and_told(self) -> None:
        model = small([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": wide(4, 512) * 0 + np.float32(1e6)})
        report = to_half(model, "fp16")
        check(model)
        assert report.clipped_constants == 1
        weight = numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == "w"))
        assert weight.dtype == np.float16
        assert (weight == 65504).all()
        assert np.isfinite(run_graph(model, {"x": np.full((1, 4), 0.01, np.float32)})[0]).all()

    @pytest.mark.parametrize("scalar", [1e6, 1e-7])
    def test_a_scalar_that_float16_has_not_keeps_its_node(self, scalar: float) -> None:
        middle = [helper.make_node("Mul", ["a", "s"], ["big"]), helper.make_node("Mul", ["big", "t"], ["b"])]
        constants: dict[str, ArrayLike] = {"s": np.float32(scalar), "t": np.float32(0.5)}
        model = body(*middle, constants=constants)
        report = to_half(model, "fp16")
        check(model)
        assert dict(report.islands) == {"out of range": 1}
        assert report.clipped_constants == 0
        assert (types(model)["big"], types(model)["b"]) == (F32, F16)

    def test_bounds_and_infinities_are_kept_as_bounds(self) -> None:
        middle = [
            helper.make_node("Clip", ["a", "low", "high"], ["c"]),
            helper.make_node("Less", ["a", "zero"], ["less"]),
            helper.make_node("Where", ["less", "c", "infinite"], ["b"]),
        ]
        constants: dict[str, ArrayLike] = {
            "low": np.float32(-1e30),
            "high": np.float32(2),
            "zero": np.float32(0),
            "infinite": np.float32(-np.inf),
        }
        model = body(*middle, constants=constants)
        report = to_half(model, "fp16")
        check(model)
        assert report.clipped_constants == 1
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        assert values["low"] == np.float16(-65504)
        assert values["infinite"] == -np.inf
        assert values["zero"].dtype == np.float32  # comparisons see what the float32 graph sees


class TestTypes:
    def test_a_constant_for_both_is_stored_twice(self) -> None:
        middle = [helper.make_node("Add", ["a", "c"], ["b"]), helper.make_node("Add", ["x4", "c"], ["z"])]
        first = helper.make_node("MatMul", ["x", "u"], ["x4"])  # 16 weights: arithmetic
        constants: dict[str, ArrayLike] = {"c": np.float32(0.1), "u": wide(4, 4)}
        model = body(first, *middle, constants=constants, outputs=("y", "z"))
        to_half(model, "fp16")
        check(model)
        assert {tensor.name: tensor.data_type for tensor in model.graph.initializer if tensor.name[0] == "c"} == {
            "c": F32,
            "c_fp16": F16,
        }

    def test_integers_are_cast_once_to_each_type(self) -> None:
        middle = [
            helper.make_node("Less", ["x", "limit"], ["less"]),
            helper.make_node("Cast", ["less"], ["flag"], to=F32),
            helper.make_node("Mul", ["flag", "limit"], ["z"]),
            helper.make_node("ReduceMax", ["flag"], ["most"], keepdims=1, axes=[1]),
            helper.make_node("Mul", ["a", "most"], ["b"]),
        ]
        model = body(*middle, constants={"limit": np.float32(0.3)}, outputs=("y", "z"))
        to_half(model, "fp16")
        check(model)
        x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
        for want, have in zip(
            run_graph(body(*middle, constants={"limit": np.float32(0.3)}, outputs=("y", "z")), {"x": x}),
            run_graph(model, {"x": x}),
            strict=True,
        ):
            np.testing.assert_allclose(have, want, rtol=2e-3, atol=2e-3)

    def test_an_output_that_is_used_inside_keeps_its_name(self) -> None:
        model = body(helper.make_node("Relu", ["a"], ["b"]), outputs=("y", "a"))
        to_half(model, "fp16")
        check(model)
        assert [value.name for value in model.graph.output] == ["y", "a"]
        # The body goes on in float16, not from the float32 output.
        taken = {node.op_type: node.input[0] for node in model.graph.node if node.op_type != "Cast"}
        assert taken["Relu"] == "a_fp16"

    def test_scales_of_a_resize_stay_float32(self) -> None:
        middle = [
            helper.make_node("Reshape", ["a", "shape"], ["image"]),
            helper.make_node("Resize", ["image", "", "scales"], ["large"], mode="nearest"),
            helper.make_node("Reshape", ["large", "flat"], ["b"]),
        ]
        constants: dict[str, ArrayLike] = {
            "shape": np.array([1, 1, 16, -1]),
            "scales": np.array([1, 1, 2, 0.5], np.float32),
            "flat": np.array([-1, 512]),
        }
        model = body(*middle, constants=constants)
        to_half(model, "fp16")
        check(model)
        assert types(model)["large"] == F16
        run_graph(model, {"x": np.ones((2, 4), np.float32)})

    def test_constant_nodes_are_understood(self) -> None:
        value = numpy_helper.from_array(np.array(0.25, np.float32))
        model = body(helper.make_node("Constant", [], ["c"], value=value), helper.make_node("Mul", ["a", "c"], ["b"]))
        assert to_half(model, "fp16").fp16_nodes == 3
        check(model)

    def test_sizes_and_indices_stay_exact(self) -> None:
        middle = [
            helper.make_node("Shape", ["a"], ["shape"]),
            helper.make_node("Cast", ["shape"], ["sizes"], to=F32),
            helper.make_node("Mul", ["sizes", "four"], ["scaled"]),
            helper.make_node("Cast", ["scaled"], ["whole"], to=I64),
            helper.make_node("Div", ["whole", "four_whole"], ["target"]),
            helper.make_node("Reshape", ["a", "target"], ["b"]),
        ]
        constants: dict[str, ArrayLike] = {"four": np.float32(4), "four_whole": np.array(4)}
        model = body(*middle, constants=constants)
        report = to_half(model, "fp16")
        check(model)
        assert dict(report.islands)["coordinates"] >= 2
        run_graph(model, {"x": np.ones((3001, 4), np.float32)})  # 4 * 3001 is not a number of float16


def test_float16_weights_are_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    model, before = traced(VIT, "encoder"), traced(VIT, "encoder")
    to_half(model, "fp16")
    originals = {tensor.name: numpy_helper.to_array(tensor) for tensor in before.graph.initializer}
    halves = [t for t in model.graph.initializer if t.data_type == F16 and t.name in originals]
    assert len(halves) > 20
    for tensor in halves:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), originals[tensor.name].astype(np.float16))


def test_attributes_are_plain() -> None:
    node = helper.make_node("Gemm", ["a", "b"], ["c"], alpha=0.5, transB=1)
    assert attributes_of(node) == {"alpha": 0.5, "transB": 1}
