"""What graphs do: counted by hand, against the torch model's count, and what is known of layers that backends fused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.bundles import write_small_bundle
from support.onnx_graphs import write_onnx, zeros

from samedge.benchmarks.profile.graph_work import GraphWork
from samedge.benchmarks.profile.onnx_work import read_graph_work
from samedge.bundle.archive import open_bundle
from samedge.engines.layer_times import LayerTime
from samedge.errors import EngineError, StorageError
from samedge.export.describe import count_gflops
from samedge.models.sam.build import empty_sam
from samedge.models.sam.configs import SMALL_VIT


@pytest.fixture
def attention(tmp_path: Path) -> GraphWork:
    """Two projections, an attention of 2 heads over 6 tokens with a bias, a projection with an addition, a norm."""
    path = write_onnx(
        tmp_path / "attention.onnx",
        [
            ("MatMul", ["x", "wq"], ["q"]),
            ("MatMul", ["x", "wk"], ["k"]),
            ("Reshape", ["q", "heads"], ["qh"]),
            ("Reshape", ["k", "heads"], ["kh"]),
            ("Transpose", ["qh"], ["qt"], {"perm": [0, 2, 1, 3]}),
            ("Transpose", ["kh"], ["kt"], {"perm": [0, 2, 3, 1]}),
            ("Transpose", ["kh"], ["vt"], {"perm": [0, 2, 1, 3]}),
            ("MatMul", ["qt", "kt"], ["s"]),
            ("MatMul", ["qt", "positions"], ["bias"]),
            ("Add", ["s", "bias"], ["biased"]),
            ("Softmax", ["biased"], ["p"], {"axis": -1}),
            ("MatMul", ["p", "vt"], ["a"]),
            ("Transpose", ["a"], ["at"], {"perm": [0, 2, 1, 3]}),
            ("Reshape", ["at", "whole"], ["flat"]),
            ("MatMul", ["flat", "wo"], ["o"]),
            ("Add", ["o", "bo"], ["out"]),
            ("LayerNormalization", ["out", "g"], ["y"]),
        ],
        {"x": ["batch", 6, 8]},
        ["y"],
        {
            **{name: zeros(8, 8) for name in ("wq", "wk", "wo")},
            "bo": zeros(8),
            "g": zeros(8),
            "positions": zeros(4, 6),
            "heads": np.array([0, 6, 2, 4], np.int64),
            "whole": np.array([0, 6, 8], np.int64),
        },
    )
    return read_graph_work(path, {"x": (3, 6, 8)})


PROJECTION = 2 * 3 * 6 * 8 * 8
SCORES = 2 * 3 * 2 * 6 * 6 * 4


def test_operations_and_kinds(attention: GraphWork) -> None:
    flops = {name: node.flops for name, node in attention.nodes.items() if node.flops}
    assert flops == {
        "/MatMul_q": PROJECTION,
        "/MatMul_k": PROJECTION,
        "/MatMul_s": SCORES,
        "/MatMul_bias": SCORES,
        "/MatMul_a": SCORES,
        "/MatMul_o": PROJECTION,
    }
    assert attention.flops == 3 * (PROJECTION + SCORES)
    kinds: dict[str, set[str]] = {}
    for name, node in attention.nodes.items():
        kinds.setdefault(node.kind, set()).add(name)
    assert kinds["attention"] == {"/MatMul_s", "/MatMul_bias", "/Add_biased", "/Softmax_p", "/MatMul_a"}
    assert kinds["linear"] == {"/MatMul_q", "/MatMul_k", "/MatMul_o"}
    assert kinds["elementwise"] == {"/Add_out"}
    assert kinds["normalisation"] == {"/LayerNormalization_y"}
    assert len(kinds["copies"]) == 7


def test_a_softmax_without_products_is_an_activation(tmp_path: Path) -> None:
    """As in the head of YOLO, where it makes a distribution of what a convolution says, for another convolution."""
    path = write_onnx(
        tmp_path / "head.onnx",
        [
            ("Conv", ["x", "w"], ["c"]),
            ("Reshape", ["c", "shape"], ["r"]),
            ("Softmax", ["r"], ["p"], {"axis": 1}),
            ("Conv", ["p", "steps"], ["y"]),
        ],
        {"x": [1, 3, 8, 8]},
        ["y"],
        {"w": zeros(16, 3, 1, 1), "shape": np.array([1, 16, 4, 16], np.int64), "steps": zeros(1, 16, 1, 1)},
    )
    work = read_graph_work(path, {"x": (1, 3, 8, 8)})
    assert [node.kind for node in work.nodes.values()] == ["convolution", "copies", "activation", "convolution"]


def layers(*named: tuple[str, str, tuple[str, ...]]) -> list[LayerTime]:
    return [LayerTime(name, operator, 1.0, sources=sources) for name, operator, sources in named]


def test_a_fused_layer_counts_what_goes_in_and_out(attention: GraphWork) -> None:
    sources = ("/MatMul_s", "/Add_biased", "/Softmax_p", "/MatMul_a")
    (work,) = attention.of_layers(layers(("fused", "Subgraph", sources)))
    assert work is not None
    assert (work.kind, work.flops, work.precision, work.nodes) == ("attention", 2 * SCORES, "fp32", sources)
    head, matrix = 3 * 2 * 6 * 4 * 4, 3 * 2 * 6 * 6 * 4
    assert work.nbytes == 3 * head + matrix + head  # q, k, v and the bias in; the result out; no scores


@pytest.mark.parametrize(
    ("source", "node"),
    [
        ("/MatMul_q", "/MatMul_q"),
        ("/MatMul_q/MatMulAddFusion", "/MatMul_q"),
        ("/MatMul_q/MatmulTransposeFusion/", "/MatMul_q"),
        ("/MatMul_q_nchwc", "/MatMul_q"),
        ("qt", "/Transpose_qt"),
        ("y", "/LayerNormalization_y"),
        ("Reorder_token_7", None),
        ("", None),
        ("/", None),
    ],
)
def test_names_of_layers(attention: GraphWork, source: str, node: str | None) -> None:
    assert attention.find(source) == node


def test_a_product_that_goes_by_the_name_of_its_addition(attention: GraphWork) -> None:
    """So OpenVINO calls a product with a bias."""
    fused, norm, copy = attention.of_layers(
        layers(
            ("/Add_out", "FullyConnected", ("/Add_out",)),
            ("/LayerNormalization_y", "MVN", ("/LayerNormalization_y",)),
            ("reorder", "Reorder", ()),
        )
    )
    assert fused is not None
    assert (fused.kind, fused.flops, set(fused.nodes)) == ("linear", PROJECTION, {"/Add_out", "/MatMul_o"})
    assert norm is not None
    assert (norm.kind, norm.flops) == ("normalisation", 0)
    assert copy is None


def test_an_addition_stays_one(attention: GraphWork) -> None:
    (work,) = attention.of_layers(layers(("/Add_out", "Eltwise", ("/Add_out",))))
    assert work is not None
    assert (work.kind, work.flops) == ("elementwise", 0)
    assert work.nbytes == 2 * 3 * 6 * 8 * 4 + 8 * 4


def test_views_move_nothing(attention: GraphWork) -> None:
    view, copy = attention.of_layers(layers(("a", "Reshape", ("/Reshape_qh",)), ("b", "Transpose", ("/Transpose_qt",))))
    assert view is not None
    assert copy is not None
    assert (view.nbytes, copy.nbytes) == (0, 2 * 3 * 6 * 8 * 4)


def test_integers(tmp_path: Path) -> None:
    """Between Q/DQ nodes, in ONNX's operators and in onnxruntime's; the shapes behind the last are known as well."""
    whole: dict[str, Any] = {"w": np.zeros((8, 4), np.int8), "scale": np.float32(0.1), "zero": np.int8(0)}
    path = write_onnx(
        tmp_path / "a.onnx",
        [
            ("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            ("DequantizeLinear", ["q", "scale", "zero"], ["dx"]),
            ("DequantizeLinear", ["w", "scale", "zero"], ["dw"]),
            ("MatMul", ["dx", "dw"], ["y"]),
            ("com.microsoft:DynamicQuantizeMatMul", ["x", "w", "scale", "zero"], ["z"]),
            ("MatMul", ["z", "v"], ["u"]),
            ("Add", ["u", "y"], ["out"]),
        ],
        {"x": [5, 8]},
        ["out"],
        {**whole, "v": zeros(4, 4)},
    )
    work = read_graph_work(path, {"x": (5, 8)})
    assert {name: (node.flops, node.precision) for name, node in work.nodes.items() if node.flops} == {
        "/MatMul_y": (2 * 5 * 4 * 8, "int8"),
        "/DynamicQuantizeMatMul_z": (2 * 5 * 4 * 8, "int8"),
        "/MatMul_u": (2 * 5 * 4 * 4, "fp32"),
    }
    assert work.nodes["/MatMul_y"].kind == "linear"


def test_half_precision(tmp_path: Path) -> None:
    path = write_onnx(
        tmp_path / "a.onnx",
        [("Cast", ["x"], ["h"], {"to": onnx.TensorProto.FLOAT16}), ("MatMul", ["h", "w"], ["y"])],
        {"x": [5, 8]},
        [],
        {"w": np.zeros((8, 4), np.float16)},
    )
    work = read_graph_work(path, {"x": (5, 8)})
    assert work.nodes["/MatMul_y"].precision == "fp16"
    (layer,) = work.of_layers(layers(("y", "MatMul", ("/MatMul_y",))))
    assert layer is not None
    assert layer.nbytes == 2 * (5 * 8 + 8 * 4) + 2 * 5 * 4 - 2 * 5 * 4  # nobody reads the result


def test_nodes_without_names(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "a.onnx", [("Relu", ["x"], ["y"]), ("Relu", ["y"], ["z"])], {"x": [2, 3]}, ["z"])
    model = onnx.load(str(path))
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, str(path))
    assert set(read_graph_work(path, {"x": (2, 3)}).nodes) == {"Relu#0", "Relu#1"}


def test_the_graph_does_what_the_torch_model_does(tmp_path: Path) -> None:
    """Within 2 %: the exported graph is a rewrite, and the count is another one's (torch's)."""
    bundle = open_bundle(write_small_bundle(tmp_path / "bundle"))
    encoder, decoder = count_gflops(empty_sam(SMALL_VIT))
    side = bundle.manifest.input.image_size
    graph = bundle.manifest.graph("decoder")
    sizes = {"prompts": 1, "points": 2}
    shapes = {
        name: tuple(sizes[axis] if isinstance(axis, str) else axis for axis in port.shape)
        for name, port in graph.inputs.items()
    }
    assert read_graph_work(bundle.graph_path("encoder"), {"image": (1, 3, side, side)}).flops / 1e9 == pytest.approx(
        encoder, rel=0.02
    )
    assert read_graph_work(bundle.graph_path("decoder"), shapes).flops / 1e9 == pytest.approx(decoder, rel=0.02)


def test_what_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="not an ONNX file"):
        read_graph_work(tmp_path / "a.onnx", {})
    with pytest.raises(StorageError):
        read_graph_work(tmp_path / "b.onnx", {})
