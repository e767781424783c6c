"""Metadata of ONNX files, read without the package that wrote them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from samedge.engines.onnx_header import read_onnx_metadata
from samedge.errors import EngineError, StorageError


def save(path: Path, pairs: dict[str, str]) -> Path:
    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    weights = onnx.numpy_helper.from_array(np.arange(5000, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [tensor],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])], [weights])  # fmt: skip
    model = helper.make_model(graph, producer_name="test", model_version=3)
    helper.set_model_props(model, pairs)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    "pairs",
    [{}, {"names": "{0: 'Straße – 街'}", "imgsz": "[640, 640]"}, {"": "empty key", "empty": ""}, {"x": "y" * 10**5}],
)
def test_pairs_are_those_that_were_written(tmp_path: Path, pairs: dict[str, str]) -> None:
    assert read_onnx_metadata(save(tmp_path / "a.onnx", pairs)) == pairs


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", {"names": "{}"})
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(EngineError, match="truncated"):
        read_onnx_metadata(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        read_onnx_metadata(tmp_path / "none.onnx")


def test_an_empty_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"")
    assert read_onnx_metadata(tmp_path / "a.onnx") == {}


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(data)
    try:
        pairs = read_onnx_metadata(tmp_path / "a.onnx")
    except EngineError:
        return
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in pairs.items())
