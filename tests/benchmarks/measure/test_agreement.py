"""Sets of masks compared."""

from __future__ import annotations

import numpy as np
import pytest

from samedge.benchmarks.measure.agreement import Agreement, agreement, largest_difference, mask_ious
from samedge.types import BoolArray


def bar(start: int, stop: int) -> BoolArray:
    """A mask of 1 x 10 px that is set from one column to another."""
    mask = np.zeros((1, 10), np.bool_)
    mask[:, start:stop] = True
    return mask


def test_ious_of_each_with_each() -> None:
    ious = mask_ious([bar(0, 10), bar(0, 5), bar(0, 0)], [bar(0, 5), bar(5, 10)])
    assert ious == pytest.approx(np.array([[0.5, 0.5], [1, 0], [0, 0]]))
    assert mask_ious([bar(0, 0)], [bar(0, 0)]) == 1  # both say that there is nothing
    assert mask_ious([], [bar(0, 1)]).shape == (0, 1)


def test_recall_precision_and_the_worst() -> None:
    found = agreement([bar(0, 10), bar(0, 9), bar(3, 4)], [bar(0, 10), bar(6, 10)], 0.9)
    assert (found.wanted, found.found, found.recalled, found.confirmed) == (2, 3, 1, 2)
    assert found.worst == pytest.approx(0.4)
    assert found.mean_iou == pytest.approx(0.7)
    assert found.recall == 0.5
    assert found.precision == pytest.approx(2 / 3)


def test_images_add_up_and_nothing_wanted_is_nothing_missed() -> None:
    nothing = agreement([], [], 0.9)
    assert (nothing.recall, nothing.precision, nothing.worst, nothing.mean_iou) == (1, 1, 1, 1)
    assert agreement([bar(0, 1)], [], 0.9).precision == 0
    assert agreement([], [bar(0, 1)], 0.9) == Agreement(1, 0, 0, 0, 0.0, 0.0)
    total = Agreement() + agreement([bar(0, 2)], [bar(0, 2)], 0.9) + agreement([], [bar(0, 1)], 0.9)
    assert (total.wanted, total.recall, total.precision, total.worst, total.mean_iou) == (2, 0.5, 1, 0, 0.5)


def test_the_largest_difference() -> None:
    assert largest_difference(np.array([1.0, -2.0], np.float32), np.array([1.0, 1.0], np.float32)) == 3
