"""How far two runs of a YOLO may be apart, for each precision; made-up outputs, so that every distance is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from samedge.engines.protocol import Engine
from samedge.options import AxisRange
from samedge.parity.yolo_compare import FP32_YOLO, HALF_YOLO, INT8_YOLO, YoloThresholds, compare_yolo, probe_feeds
from samedge.runtime.yolo.input_limits import InputLimits
from samedge.testing.engine import fake_engine
from samedge.types import Array, FloatArray, TensorSpec

CLASSES, MASKS, ANCHORS = 2, 4, 60
Change = Callable[[dict[str, FloatArray]], None]


def answers() -> dict[str, FloatArray]:
    """Sixty anchors in the order of their scores, with masks that are halves of the picture."""
    random = np.random.default_rng(0)
    boxes = random.uniform(0, 100, (4, ANCHORS))
    scores = np.stack([np.linspace(0.9, 0.0, ANCHORS), np.linspace(0.1, 0.0, ANCHORS)])
    coefficients = random.choice([-1.0, 1.0], (MASKS, ANCHORS))
    prototypes = np.full((MASKS, 8, 8), 0.1)
    prototypes[:, :, ::2] = random.normal(0, 5, (MASKS, 8, 4))
    first = np.concatenate([boxes, scores, coefficients])
    return {"output0": first[None].astype(np.float32), "output1": prototypes[None].astype(np.float32)}


def engine_of(change: Change) -> Engine:
    outputs = answers()
    change(outputs)

    def run(_feeds: dict[str, Array]) -> Mapping[str, Array]:
        return outputs

    f32 = np.dtype(np.float32)
    ports = {name: TensorSpec(array.shape, f32) for name, array in outputs.items()}
    return fake_engine({"images": TensorSpec(("batch", 3, 32, 32), f32)}, ports, run)


def add(row: Any, anchor: Any, by: float, output: str = "output0") -> Change:
    def change(outputs: dict[str, FloatArray]) -> None:
        outputs[output][0, row, anchor] += np.float32(by)

    return change


WORST = ANCHORS - 1
BOXES, SCORES = slice(0, 4), slice(4, 4 + CLASSES)


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        (add(0, 0, 0.0), "fp32 fp16 int8"),
        (add(BOXES, 0, 0.6), "fp16 int8"),
        (add(BOXES, WORST, 0.6), "fp16 int8"),
        (add(BOXES, WORST, 400.0), "fp16 int8"),  # nobody is shown the box of an anchor without a score
        (add(BOXES, 0, 5.0), "int8"),
        (add(BOXES, 0, 20.0), ""),
        (add(SCORES, WORST, 0.005), "fp16 int8"),
        (add(SCORES, WORST, 0.05), "int8"),
        (add(SCORES, WORST, 0.5), ""),  # an object where there is none
        (add(slice(6, None), 0, 9.0), "fp16 int8"),  # one mask of twenty
        (add(slice(6, None), slice(None), np.nan), ""),
        (add(0, WORST, np.nan), ""),
        (add(slice(None), slice(None), np.inf, "output1"), ""),
        (add(slice(None), slice(None), -9.0, "output1"), ""),
    ],
)
def test_every_precision_has_its_distance(change: Change, passes: str) -> None:
    feeds = [("any", np.zeros((1, 3, 32, 32), np.float32))]
    wanted = list(answers().values())
    limits: dict[str, YoloThresholds] = {"fp32": FP32_YOLO, "fp16": HALF_YOLO, "int8": INT8_YOLO}
    found = [
        name
        for name, thresholds in limits.items()
        if compare_yolo(lambda _: wanted, engine_of(change), CLASSES, feeds, thresholds).verdict == "passed"
    ]
    assert found == passes.split()


def test_the_record_says_what_was_found() -> None:
    feeds = [(name, np.zeros((1, 3, 32, 32), np.float32)) for name in ("one", "two")]
    done: list[int] = []
    record = compare_yolo(
        lambda _: list(answers().values()), engine_of(add(BOXES, 3, 0.25)), CLASSES, feeds, HALF_YOLO,
        progress=done.append,
    )  # fmt: skip
    assert (record.verdict, record.backend, record.score_error_max, record.mask_iou_min) == ("passed", "fake cpu", 0, 1)
    assert record.box_error_max == pytest.approx(0.25, abs=1e-4)
    assert record.thresholds == {"box_error_max": 1.0, "score_error_max": 0.01, "mask_iou_mean": 0.97}
    assert [row.image for row in record.rows] == ["one", "two"]
    assert done == [1, 2]


def test_probes_are_drawn_to_fit_the_engine() -> None:
    shapes = [feed.shape[2:] for _, feed in probe_feeds((640, 640), 1, rect=True)]
    assert shapes == [(160, 640), (384, 640), (640, 640), (640, 480), (640, 160)]
    limits = InputLimits(height=AxisRange(320, 640, 640), width=AxisRange(320, 640, 640))
    shapes = [feed.shape for _, feed in probe_feeds((640, 640), 2, rect=True, limits=limits)]
    assert shapes == [(2, 3, *size) for size in [(640, 640), (384, 640), (640, 640), (640, 480), (640, 640)]]
