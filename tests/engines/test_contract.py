"""Every backend of the table, held to one contract on the same tiny graphs; each graph carries its own check.

A new backend for ONNX gets all of this by its line in `BACKENDS`. One that is not installed is skipped, and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from samedge.engines.protocol import Engine, shape_fits
from samedge.engines.registry import BACKENDS, availability, open_engine
from samedge.errors import DeviceUnavailableError, EngineError, TensorMismatchError
from samedge.types import Array

Feeds = dict[str, Array]


@dataclass(frozen=True)
class TinyModel:
    """A graph, feeds for it, and what it must give."""

    name: str
    build: Callable[[], onnx.ModelProto]
    feeds: Callable[[], Feeds]
    check: Callable[[Feeds, Feeds], None]


def _model(nodes: list[onnx.NodeProto], inputs: Ports, outputs: Ports, weights: dict[str, Array]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


Ports = dict[str, tuple[int, list[int | str]]]
F32, I32 = TensorProto.FLOAT, TensorProto.INT32


def _affine() -> onnx.ModelProto:
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    return _model(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        {"x": (F32, ["batch", 4])},
        {"y": (F32, ["batch", 3])},
        {"w": weight, "b": np.array([1, 2, 3], np.float32)},
    )


def _check_affine(feeds: Feeds, got: Feeds) -> None:
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_allclose(got["y"], feeds["x"] @ weight + np.array([1, 2, 3], np.float32), rtol=1e-6)


def _mixed() -> onnx.ModelProto:
    return _model(
        [
            helper.make_node("Cast", ["labels"], ["f"], to=F32),
            helper.make_node("Unsqueeze", ["f", "last"], ["u"]),
            helper.make_node("Mul", ["coords", "u"], ["weighted"]),
            helper.make_node("ReduceSum", ["weighted", "last_but_one"], ["sum"], keepdims=0),
            helper.make_node("Neg", ["labels"], ["negated"]),
        ],
        {"coords": (F32, ["batch", "points", 2]), "labels": (I32, ["batch", "points"])},
        {"sum": (F32, ["batch", 2]), "negated": (I32, ["batch", "points"])},
        {"last": np.array([2], np.int64), "last_but_one": np.array([1], np.int64)},
    )


def _mixed_feeds() -> Feeds:
    rng = np.random.default_rng(1)
    return {"coords": rng.random((3, 5, 2), dtype=np.float32), "labels": rng.integers(-1, 4, (3, 5)).astype(np.int32)}


def _check_mixed(feeds: Feeds, got: Feeds) -> None:
    want = (feeds["coords"] * feeds["labels"][..., None]).sum(1)
    np.testing.assert_allclose(got["sum"], want, atol=1e-5)
    np.testing.assert_array_equal(got["negated"], -feeds["labels"])


def _no_points() -> Feeds:
    return {"coords": np.zeros((2, 0, 2), np.float32), "labels": np.zeros((2, 0), np.int32)}


def _check_no_points(feeds: Feeds, got: Feeds) -> None:
    np.testing.assert_array_equal(got["sum"], np.zeros((2, 2), np.float32))
    assert got["negated"].shape == (2, 0)


def _convolution() -> onnx.ModelProto:
    return _model(
        [
            helper.make_node("Conv", ["image", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        {"image": (F32, [1, 3, 8, 8])},
        {"y": (F32, [1, 2, 8, 8])},
        {"w": np.ones((2, 3, 3, 3), np.float32)},
    )


def _check_convolution(feeds: Feeds, got: Feeds) -> None:
    padded = np.pad(feeds["image"][0], ((0, 0), (1, 1), (1, 1)))
    want = sum(padded[:, dy : dy + 8, dx : dx + 8].sum(0) for dy in range(3) for dx in range(3))
    np.testing.assert_allclose(got["y"][0], np.stack([want, want]), rtol=1e-5)


def _scalar() -> onnx.ModelProto:
    return _model(
        [helper.make_node("Mul", ["x", "by"], ["y"])], {"x": (F32, ["n"]), "by": (F32, [])}, {"y": (F32, ["n"])}, {}
    )


def _check_scalar(feeds: Feeds, got: Feeds) -> None:
    np.testing.assert_allclose(got["y"], feeds["x"] * feeds["by"], rtol=1e-6)


MODELS = (
    TinyModel("affine", _affine, lambda: {"x": np.random.default_rng(0).random((2, 4), np.float32)}, _check_affine),
    TinyModel("mixed-dtypes", _mixed, _mixed_feeds, _check_mixed),
    TinyModel("empty-axis", _mixed, _no_points, _check_no_points),
    TinyModel("scalar", _scalar, lambda: {"x": np.ones(3, np.float32), "by": np.array(2.5, np.float32)}, _check_scalar),
    TinyModel(
        "convolution",
        _convolution,
        lambda: {"image": np.random.default_rng(2).random((1, 3, 8, 8), np.float32)},
        _check_convolution,
    ),
)


@pytest.fixture(params=[backend.name for backend in BACKENDS if ".onnx" in backend.suffixes])
def backend(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    found = availability(name)
    if not found.ok:
        pytest.skip(f"{name}: {found.reason}")
    return name


@pytest.fixture
def mixed(backend: str, tmp_path: Path) -> Iterator[Engine]:
    path = tmp_path / "mixed.onnx"
    onnx.save(_mixed(), path)
    with open_engine(path, backend=backend, device="cpu") as engine:
        yield engine


class TestContract:
    @pytest.mark.parametrize("tiny", MODELS, ids=lambda tiny: tiny.name)
    def test_gives_the_right_numbers(self, backend: str, tiny: TinyModel, tmp_path: Path) -> None:
        path = tmp_path / "tiny.onnx"
        onnx.save(tiny.build(), path)
        with open_engine(path, backend=backend, device="cpu") as engine:
            feeds = tiny.feeds()
            got = engine.run(feeds)
            assert got.keys() == engine.outputs.keys()
            for name, array in got.items():
                assert array.dtype == engine.outputs[name].dtype
                assert shape_fits(array.shape, engine.outputs[name])
            tiny.check(feeds, got)

    def test_describes_inputs_and_outputs(self, mixed: Engine) -> None:
        assert {name: str(spec) for name, spec in mixed.inputs.items()} == {
            "coords": "float32[batch, points, 2]",
            "labels": "int32[batch, points]",
        }
        assert {name: str(spec) for name, spec in mixed.outputs.items()} == {
            "sum": "float32[batch, 2]",
            "negated": "int32[batch, points]",
        }

    def test_says_what_it_is(self, mixed: Engine, backend: str) -> None:
        assert mixed.backend == backend
        assert mixed.device == "cpu"
        assert mixed.name == "mixed.onnx"
        assert mixed.details

    def test_gives_only_the_outputs_asked_for_in_that_order(self, mixed: Engine) -> None:
        assert list(mixed.run(_mixed_feeds(), ["negated"])) == ["negated"]
        assert list(mixed.run(_mixed_feeds(), ["sum", "negated"])) == ["sum", "negated"]

    def test_free_axes_change_between_calls(self, mixed: Engine) -> None:
        for batch, points in ((1, 1), (7, 2), (1, 9), (2, 0)):
            feeds: Feeds = {
                "coords": np.ones((batch, points, 2), np.float32),
                "labels": np.ones((batch, points), np.int32),
            }
            assert (mixed.run(feeds)["sum"] == points).all()

    def test_takes_views_that_are_not_contiguous(self, mixed: Engine) -> None:
        feeds = _mixed_feeds()
        views = {"coords": feeds["coords"].transpose(1, 0, 2), "labels": feeds["labels"].T}
        _check_mixed(views, mixed.run(views))

    def test_leaves_the_feeds_as_they_were_and_gives_fresh_outputs(self, mixed: Engine) -> None:
        feeds = _mixed_feeds()
        kept = {name: array.copy() for name, array in feeds.items()}
        first = mixed.run(feeds)["sum"]
        before = first.copy()
        mixed.run({name: array * 2 for name, array in feeds.items()})
        np.testing.assert_array_equal(first, before)
        for name, array in kept.items():
            np.testing.assert_array_equal(feeds[name], array)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"labels": np.ones((3, 5), np.int64)}, r"input 'labels' is int64\[3, 5\].*expects int32\[batch, points\]"),
            ({"coords": np.ones((3, 5, 3), np.float32)}, r"input 'coords' is float32\[3, 5, 3\]"),
            ({"coords": np.ones((5, 2), np.float32)}, "input 'coords'"),
            ({"labels": np.ones((3, 4), np.int32)}, "axis 'points' is 4 in input 'labels' and 5 in input 'coords'"),
            ({"extra": np.ones(1, np.float32)}, "no input 'extra'"),
            ({"labels": None}, "input 'labels' is missing.*Its inputs are coords, labels"),
        ],
        ids=["dtype", "size", "rank", "axes disagree", "extra", "missing"],
    )
    def test_refuses_feeds_that_do_not_fit(self, mixed: Engine, change: dict[str, Array | None], message: str) -> None:
        feeds = {name: array for name, array in {**_mixed_feeds(), **change}.items() if array is not None}
        with pytest.raises(TensorMismatchError, match=message):
            mixed.run(feeds)

    def test_refuses_unknown_outputs(self, mixed: Engine) -> None:
        with pytest.raises(TensorMismatchError, match=r"no output 'nothing'.*Its outputs are sum, negated"):
            mixed.run(_mixed_feeds(), ["nothing"])

    def test_refuses_to_run_when_closed(self, mixed: Engine) -> None:
        mixed.close()
        mixed.close()
        assert mixed.closed
        with pytest.raises(EngineError, match=r"mixed.onnx: this engine is closed"):
            mixed.run(_mixed_feeds())

    def test_reads_weights_beside_the_graph(self, backend: str, tmp_path: Path) -> None:
        path = tmp_path / "with-data.onnx"
        onnx.save(_affine(), path, save_as_external_data=True, location="with-data.bin", size_threshold=0)
        assert (tmp_path / "with-data.bin").stat().st_size > 0
        with open_engine(path, backend=backend, device="cpu") as engine:
            feeds: Feeds = {"x": np.ones((1, 4), np.float32)}
            _check_affine(feeds, engine.run(feeds))

    def test_missing_weights_are_an_error_that_says_so(self, backend: str, tmp_path: Path) -> None:
        path = tmp_path / "with-data.onnx"
        onnx.save(_affine(), path, save_as_external_data=True, location="with-data.bin", size_threshold=0)
        (tmp_path / "with-data.bin").unlink()
        with pytest.raises(EngineError, match=r"with-data.onnx: .*weight file beside the graph"):
            open_engine(path, backend=backend, device="cpu")

    @pytest.mark.parametrize("keep", [0, 1, 20, -1])
    def test_a_truncated_graph_is_an_error_with_a_cure(self, backend: str, keep: int, tmp_path: Path) -> None:
        path = tmp_path / "cut.onnx"
        path.write_bytes(_convolution().SerializeToString()[:keep])
        with pytest.raises(EngineError, match=r"^cut.onnx: ") as caught:
            open_engine(path, backend=backend, device="cpu")
        assert caught.value.cure

    @pytest.mark.parametrize("content", [b"PK\x03\x04 not a graph", b"\x00" * 4096, b"{}"])
    def test_a_foreign_file_is_an_error_with_a_cure(self, backend: str, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "foreign.onnx"
        path.write_bytes(content)
        with pytest.raises(EngineError, match=r"^foreign.onnx: ") as caught:
            open_engine(path, backend=backend, device="cpu")
        assert caught.value.cure

    def test_an_unknown_operator_is_an_error(self, backend: str, tmp_path: Path) -> None:
        graph = helper.make_graph(
            [helper.make_node("Nonsense", ["x"], ["y"], domain="nobody")],
            "g",
            [helper.make_tensor_value_info("x", F32, [1])],
            [helper.make_tensor_value_info("y", F32, [1])],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nobody", 1)]
        path = tmp_path / "nonsense.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        with pytest.raises(EngineError, match=r"nonsense.onnx"):
            open_engine(path, backend=backend, device="cpu")

    def test_a_failure_while_running_is_an_error(self, backend: str, tmp_path: Path) -> None:
        add = _model(
            [helper.make_node("Add", ["a", "b"], ["y"])],
            {"a": (F32, ["n"]), "b": (F32, ["m"])},
            {"y": (F32, ["k"])},
            {},
        )
        path = tmp_path / "add.onnx"
        onnx.save(add, path)
        one, two, three = (np.ones(size, np.float32) for size in (1, 2, 3))
        with open_engine(path, backend=backend, device="cpu") as engine:
            np.testing.assert_array_equal(engine.run({"a": two, "b": one})["y"], two * 2)
            with pytest.raises(EngineError, match=r"add.onnx"):
                engine.run({"a": two, "b": three})
            np.testing.assert_array_equal(engine.run({"a": three, "b": three})["y"], three * 2)

    @pytest.mark.parametrize("device", ["abacus", "cuda:x", "cpu:1", "NoneSuchExecutionProvider"])
    def test_a_device_that_cannot_be_had_is_an_error(self, backend: str, device: str, tmp_path: Path) -> None:
        path = tmp_path / "affine.onnx"
        onnx.save(_affine(), path)
        with pytest.raises(DeviceUnavailableError) as caught:
            open_engine(path, backend=backend, device=device)
        assert caught.value.cure
        assert device.partition(":")[0] in str(caught.value)
