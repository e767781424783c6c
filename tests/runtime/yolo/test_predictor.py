"""What a YOLO graph is, and one image through it, on graphs that are Python functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samedge.engines.protocol import Engine
from samedge.errors import EngineError, UsageError
from samedge.runtime.yolo.detections import Thresholds
from samedge.runtime.yolo.graph import YoloGraph, describe_yolo, yolo_metadata
from samedge.runtime.yolo.predictor import YoloPredictor
from samedge.testing.engine import fake_engine
from samedge.types import Array, TensorSpec

F32, F16 = np.dtype(np.float32), np.dtype(np.float16)
SIZE = (64, 96)


def graph(
    outputs: dict[str, tuple[int | str, ...]],
    values: dict[str, Array] | None = None,
    *,
    images: tuple[int | str, ...] = (1, 3, *SIZE),
    dtype: np.dtype[Any] = F32,
) -> Engine:
    specs = {name: TensorSpec(shape, dtype) for name, shape in outputs.items()}
    return fake_engine({"images": TensorSpec(images, dtype)}, specs, lambda _: values or {})


def segmenter(dtype: np.dtype[Any] = F32, **values: Array) -> Engine:
    """One box over the right half of the input, one with a mask that is empty, and one that scores too little."""
    anchors = np.zeros((1, 7, 126), np.float32)
    anchors[0, :, 0] = 72, 32, 48, 64, 0.9, 0.1, 1
    anchors[0, :, 5] = 24, 32, 48, 64, 0.2, 0.8, -1
    anchors[0, :, 9] = 24, 32, 48, 64, 0.1, 0.1, 1
    outputs = {"output0": anchors.astype(dtype), "output1": np.ones((1, 1, 16, 24), dtype), **values}
    return graph({"output0": (1, 7, 126), "output1": (1, 1, 16, 24)}, outputs, dtype=dtype)


class TestGraph:
    def test_their_metadata(self) -> None:
        engine = graph({"output0": ("batch", 84, "anchors")}, images=("batch", 3, "height", "width"))
        found = describe_yolo(
            engine, {"names": "{0: 'person', 1: 'bicycle'}", "imgsz": "[480, 640]", "stride": "64", "task": "detect"}
        )
        assert found == YoloGraph(names={0: "person", 1: "bicycle"}, image_size=(480, 640), stride=64)

    def test_ours_are_the_same_words(self) -> None:
        engine = graph({"output0": (1, 7, 126), "output1": (1, 1, 16, 24)})
        found = describe_yolo(engine, yolo_metadata({0: "a'b", 1: "c"}, SIZE, "segment"))
        assert found.names == {0: "a'b", 1: "c"}
        assert (found.segments, found.fixed_size, found.image_size, found.task) == (True, True, SIZE, "segment")
        assert found.outputs == ("output0", "output1")

    @pytest.mark.parametrize(
        "metadata",
        [{}, {"names": "__import__('os')", "imgsz": "[]", "stride": "x"}, {"names": "[" * 5000, "imgsz": "[-1, 2]"}],
    )
    def test_metadata_that_says_nothing(self, metadata: dict[str, str]) -> None:
        found = describe_yolo(graph({"output0": (1, 84, "a")}, images=(1, 3, "h", "w")), metadata)
        assert found == YoloGraph(batch=1)

    def test_names_as_a_list(self) -> None:
        assert describe_yolo(graph({"output0": (1, 6, 9)}), {"names": "['a', 'b']"}).names == {0: "a", 1: "b"}

    def test_half_precision(self) -> None:
        assert describe_yolo(segmenter(F16), {}).half

    @pytest.mark.parametrize(
        ("outputs", "suppressed"),
        [
            ({"o": (1, 300, 6)}, True),
            ({"o": (1, 300, 38), "p": (1, 32, 160, 160)}, True),
            ({"o": (1, 84, 8400)}, False),
            ({"o": (1, 116, 8400), "p": (1, 32, 160, 160)}, False),
            ({"o": (1, 6, 8400)}, False),
            ({"o": (1, 84, "anchors")}, False),
        ],
    )
    def test_graphs_that_suppress(self, outputs: dict[str, tuple[int | str, ...]], suppressed: bool) -> None:
        assert describe_yolo(graph(outputs), {}).suppressed == suppressed

    @pytest.mark.parametrize(
        ("engine", "metadata", "message"),
        [
            (graph({"output0": (1, 84, 9)}), {"task": "pose"}, "task is 'pose'"),
            (graph({"output0": (1, 1000)}), {}, "outputs are output0"),
            (graph({"a": (1, 84, 9), "b": (1, 84, 9)}), {}, "outputs are"),
            (graph({"output0": (1, 84, 9)}, images=(1, 1, 64, 64)), {}, "1 channels"),
            (graph({"output0": (1, 84, 9)}, images=(1, 3, 64)), {}, "inputs are"),
        ],
    )
    def test_other_graphs_are_refused(self, engine: Engine, metadata: dict[str, str], message: str) -> None:
        with pytest.raises(EngineError, match=message):
            describe_yolo(engine, metadata)


def predictor(engine: Engine, metadata: dict[str, str] | None = None) -> YoloPredictor:
    return YoloPredictor(engine, describe_yolo(engine, metadata or {}))


class TestPredict:
    @pytest.mark.parametrize("dtype", [F32, F16])
    def test_boxes_and_masks_of_the_image(self, dtype: np.dtype[Any]) -> None:
        image = np.zeros((128, 192, 3), np.uint8)
        with predictor(segmenter(dtype), {"names": "{0: 'cat', 1: 'dog'}"}) as model:
            found = model.predict(image, path="a.png")
        assert found.boxes is not None
        assert found.masks is not None
        np.testing.assert_array_equal(found.boxes.xyxy, [[96, 0, 192, 128]])
        np.testing.assert_allclose(found.boxes.conf, [0.9], rtol=1e-3)
        assert found.names == {0: "cat", 1: "dog"}
        assert found.masks.data[0, :, 96:].all()
        assert not found.masks.data[0, :, :96].any()
        assert found.path == "a.png"
        assert all(milliseconds is not None and milliseconds >= 0 for milliseconds in found.speed.values())
        assert found.orig_img is image

    def test_classes_without_names_have_numbers(self) -> None:
        found = predictor(segmenter()).predict(np.zeros((64, 96, 3), np.uint8))
        assert found.name_of(1) == "1"

    def test_nothing_found(self) -> None:
        found = predictor(segmenter()).predict(np.zeros((64, 96, 3), np.uint8), thresholds=Thresholds(conf=0.99))
        assert len(found) == 0
        assert found.masks is None
        assert found.boxes is not None

    def test_a_fixed_size_is_fixed(self) -> None:
        model, image = predictor(segmenter()), np.zeros((10, 10, 3), np.uint8)
        assert len(model.predict(image, image_size=SIZE)) == 1
        with pytest.raises(UsageError, match="64 x 96 px"):
            model.predict(image, image_size=320)

    @pytest.mark.parametrize(
        ("asked", "rect", "shape"),
        [
            (None, True, (320, 640)),
            (None, False, (640, 640)),
            (100, True, (64, 128)),
            ((64, 320), True, (64, 128)),
            ((64, 320), False, (64, 320)),
        ],
    )
    def test_free_sizes(self, asked: int | tuple[int, int] | None, rect: bool, shape: tuple[int, int]) -> None:
        seen: list[tuple[int, ...]] = []

        def run(feeds: dict[str, Array]) -> dict[str, Array]:
            seen.append(feeds["images"].shape)
            return {"output0": np.zeros((1, 6, 5), np.float32)}

        spec = TensorSpec((1, 3, "h", "w"), F32)
        engine = fake_engine({"images": spec}, {"output0": TensorSpec((1, 6, "a"), F32)}, run)
        assert len(predictor(engine).predict(np.zeros((50, 100, 3), np.uint8), image_size=asked, rect=rect)) == 0
        assert seen == [(1, 3, *shape)]

    @pytest.mark.parametrize("size", [0, -5, (1, 2, 3), (0, 64)])
    def test_sizes_that_mean_nothing(self, size: Any) -> None:
        with pytest.raises(UsageError, match="imgsz"):
            predictor(segmenter()).predict(np.zeros((50, 100, 3), np.uint8), image_size=size)
