"""What a graph takes and gives is read as the package onnx reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from samedge.engines.onnx_header import read_onnx_ports
from samedge.errors import EngineError, StorageError


def model() -> onnx.ModelProto:
    f32 = TensorProto.FLOAT
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Concat", ["a", "b", "w"], ["y"], axis=0)],
            "graph",
            [
                helper.make_tensor_value_info("a", f32, ["batch", 3, None]),
                helper.make_tensor_value_info("b", f32, [-1, 0, 7]),
                helper.make_tensor_value_info("scalar", f32, []),
                helper.make_tensor_value_info("ranks are not told", f32, None),
            ],
            [helper.make_tensor_value_info("y", f32, ["Σ", 3, 7])],
            [numpy_helper.from_array(np.ones((1, 3, 7), np.float32), "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )


def test_names_sizes_and_order(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path)
    ports = read_onnx_ports(path)
    assert list(ports.inputs.items()) == [
        ("a", ("batch", 3, None)),
        ("b", (None, 0, 7)),
        ("scalar", ()),
        ("ranks are not told", None),
    ]
    assert ports.outputs == {"y": ("Σ", 3, 7)}


def test_every_cut_of_a_file_is_an_error_or_lacks_only_what_follows_the_graph(tmp_path: Path) -> None:
    whole = model().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole)
    want = read_onnx_ports(path)
    graph_ends = whole.index(model().graph.SerializeToString()) + len(model().graph.SerializeToString())
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        if size < graph_ends:
            with pytest.raises(EngineError, match=r"^cut\.onnx: .*truncated.*Copy the file again"):
                read_onnx_ports(path)
            continue
        try:
            assert read_onnx_ports(path) == want
        except EngineError:
            continue


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        read_onnx_ports(tmp_path / "nothing.onnx")
