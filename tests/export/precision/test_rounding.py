"""The twin of a float16 graph rounds where onnxruntime does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from support.traced_graphs import VIT, random_feeds, run_graph, traced

from samedge.errors import EngineError
from samedge.export.precision import rounding
from samedge.export.precision.half import to_half
from samedge.export.precision.rounding import check_rounding, judged_graph, rounding_twin
from samedge.types import Array

F32, F16 = TensorProto.FLOAT, TensorProto.FLOAT16


def pointwise() -> onnx.ModelProto:
    """A float16 body of many roundings: ((x * x + c) / c2 - x).relu() with a reshape within."""
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=F16),
        helper.make_node("Mul", ["h", "h"], ["square"]),
        helper.make_node("Add", ["square", "c"], ["sum"]),
        helper.make_node("Reshape", ["sum", "flat"], ["moved"]),
        helper.make_node("Div", ["moved", "c2"], ["quotient"]),
        helper.make_node("Reshape", ["quotient", "back"], ["again"]),
        helper.make_node("Sub", ["again", "h"], ["difference"]),
        helper.make_node("Relu", ["difference"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["y"], to=F32),
    ]
    ports = [helper.make_tensor_value_info(name, F32, [64, 4]) for name in "xy"]
    constants = {
        "c": np.array(0.1, np.float16),
        "c2": np.array(3, np.float16),
        "flat": np.array([-1]),
        "back": np.array([64, 4]),
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "pointwise", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_twin_computes_what_numpy_computes_in_float16() -> None:
    model = pointwise()
    feeds: dict[str, Array] = {"x": np.random.default_rng(3).normal(0, 4, (64, 4)).astype(np.float32)}
    feeds["x"][0] = [300, -300, 255, 1e-4]
    with np.errstate(over="ignore"):
        outputs: Any = ReferenceEvaluator(model).run(None, feeds)
        want = outputs[0]  # numpy, in the types of the graph
    assert np.isinf(want[0, :2]).all()
    plain = run_graph(model, feeds)[0]
    assert np.isfinite(plain).all()  # onnxruntime took the casts out: this is why there is a twin
    assert rounding_twin(model) == 5
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run_graph(model, feeds)[0], want)
    assert (plain != want).mean() > 0.2


@pytest.mark.parametrize("rung", ["fp16", "fp16-attention"])
def test_a_whole_decoder_is_rounded_and_close(rung: str) -> None:
    model, before = traced(VIT, "decoder"), traced(VIT, "decoder")
    to_half(model, rung)
    unrounded = [node.op_type for node in model.graph.node]
    assert rounding_twin(model) > 100
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} == {*unrounded, "Max"}
    assert all(tensor.data_type != F16 for tensor in model.graph.initializer)
    feeds = random_feeds(before)
    for want, have in zip(run_graph(before, feeds), run_graph(model, feeds), strict=True):
        error = np.abs(have - want).max() / np.abs(want).max()
        assert 1e-5 < error < 5e-3


def test_a_graph_without_float16_is_its_own_twin(tmp_path: Path) -> None:
    model, before = traced(VIT, "decoder_masks"), traced(VIT, "decoder_masks")
    assert rounding_twin(model) == 0
    assert model == before
    path = tmp_path / "g.onnx"
    onnx.save(model, path)
    with judged_graph(path, "int8") as judged:
        assert judged == path
    with judged_graph(tmp_path / "not-there.onnx", "fp32") as judged:  # not even looked at
        assert judged.name == "not-there.onnx"


def test_the_twin_lies_beside_for_as_long_as_it_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    onnx.save(pointwise(), path)
    with judged_graph(path) as judged:
        assert judged != path
        onnx.checker.check_model(str(judged))
    assert list(tmp_path.iterdir()) == [path]


def test_a_runtime_that_takes_rounding_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    check_rounding()
    identity = lambda name, rounded: [helper.make_node("Identity", [name], [rounded])]  # noqa: E731
    monkeypatch.setattr(rounding, "_round", identity)
    with pytest.raises(EngineError, match="removes explicit rounding"):
        check_rounding()
