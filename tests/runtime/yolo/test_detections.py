"""From anchors to boxes."""

from __future__ import annotations

import numpy as np
import pytest

from samedge.errors import TensorMismatchError, UsageError
from samedge.runtime.yolo import detections
from samedge.runtime.yolo.detections import Thresholds, detect, select
from samedge.types import FloatArray


def anchors(*rows: tuple[float, ...]) -> FloatArray:
    """As a graph gives them: one anchor a column."""
    return np.array(rows, np.float32).T.copy()


# x, y, w, h, score of class 0, score of class 1, one mask coefficient
ALONE = (50, 60, 20, 10, 0.1, 0.9, 7)
OVER_IT = (51, 60, 20, 10, 0.2, 0.8, 8)
OTHER_CLASS = (50, 60, 20, 10, 0.7, 0.3, 9)
WEAK = (200, 60, 20, 10, 0.25, 0.1, 10)


class TestDetect:
    def test_the_best_class_of_an_anchor(self) -> None:
        found = detect(anchors(ALONE, WEAK), 2, Thresholds())
        np.testing.assert_array_equal(found.boxes, [[40, 55, 60, 65]])
        np.testing.assert_allclose(found.scores, [0.9])
        np.testing.assert_array_equal(found.classes, [1])
        np.testing.assert_array_equal(found.coefficients, [[7]])
        assert found.scores.dtype == found.classes.dtype == np.float32

    @pytest.mark.parametrize(
        ("thresholds", "coefficients"),
        [
            (Thresholds(), [7, 9]),
            (Thresholds(iou=0.95), [7, 8, 9]),
            (Thresholds(agnostic=True), [7]),
            (Thresholds(classes=[0]), [9]),
            (Thresholds(classes=[5]), []),
            (Thresholds(max_det=1), [7]),
            (Thresholds(conf=0.85), [7]),
            (Thresholds(conf=0.2), [7, 9, 10]),
            (Thresholds(conf=1.0), []),
        ],
    )
    def test_what_is_kept(self, thresholds: Thresholds, coefficients: list[int]) -> None:
        found = detect(anchors(OTHER_CLASS, OVER_IT, WEAK, ALONE), 2, thresholds)
        assert found.coefficients.ravel().tolist() == coefficients
        assert len(found) == len(coefficients)
        assert found.boxes.shape == (len(coefficients), 4)

    def test_the_threshold_itself_is_not_enough(self) -> None:
        assert len(detect(anchors(WEAK), 2, Thresholds(conf=0.25))) == 0

    def test_of_too_many_the_best_are_looked_at(self, monkeypatch: pytest.MonkeyPatch) -> None:
        most = 300
        monkeypatch.setattr(detections, "MAX_CANDIDATES", most)
        count = most + 10
        output = np.zeros((5, count), np.float32)
        output[0], output[1], output[2:4] = np.arange(count) * 10, 5, 4
        output[4] = np.linspace(0.5, 0.9, count)
        found = detect(output, 1, Thresholds(max_det=count))
        assert len(found) == most
        assert found.scores[0] == np.float32(0.9)
        assert found.scores[-1] > output[4, 9]

    def test_an_output_without_these_classes(self) -> None:
        with pytest.raises(TensorMismatchError, match="no 9 classes"):
            detect(np.zeros((6, 10), np.float32), 9, Thresholds())

    def test_nothing_at_all(self) -> None:
        assert len(detect(np.zeros((6, 0), np.float32), 2, Thresholds())) == 0


class TestSelect:
    def test_rows_that_were_suppressed_already(self) -> None:
        rows = np.array([[0, 0, 9, 9, 0.3, 1, 5], [1, 1, 8, 8, 0.9, 0, 6], [0, 0, 0, 0, 0, 0, 0]], np.float32)
        found = select(rows, Thresholds())
        np.testing.assert_array_equal(found.boxes, rows[[1, 0], :4])
        np.testing.assert_array_equal(found.coefficients, [[6], [5]])
        assert len(select(rows, Thresholds(classes=[1]))) == 1
        assert len(select(rows, Thresholds(max_det=1))) == 1


class TestThresholds:
    @pytest.mark.parametrize(
        ("name", "value"), [("conf", -0.1), ("conf", 1.1), ("conf", float("nan")), ("iou", 2), ("max_det", 0)]
    )
    def test_what_means_nothing_is_refused(self, name: str, value: float) -> None:
        with pytest.raises(UsageError, match=name):
            Thresholds(**{name: value})  # type: ignore[arg-type]
