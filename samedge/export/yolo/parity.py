"""Comparison of a YOLO's graph with its torch model: raw outputs on the probe images.

Suppression in the graph is compared with the host's on the same raw outputs.
"""

from __future__ import annotations

import json
from typing import Final

import numpy as np
import torch

from samedge.bundle.manifest import ParityRecord
from samedge.bundle.yolo_record import SuppressionRecord
from samedge.engines.protocol import Engine
from samedge.models.yolo.yolo import Yolo, YoloConfig
from samedge.parity.yolo_compare import FP32_YOLO, compare_yolo, probe_feeds, worst_error
from samedge.runtime.yolo.detections import Thresholds, best_pairs, detect
from samedge.runtime.yolo.graph import INPUT, OUTPUT
from samedge.types import FloatArray

MAX_SUPPRESSION_ERROR: Final = 1e-3


def parity_json(parity: ParityRecord) -> str:
    """Return the verdict and the worst figures as JSON, for the metadata of the graph's file."""
    names = ("verdict", "box_error_max", "score_error_max", "mask_iou_min")
    return json.dumps({name: getattr(parity, name) for name in names})


def check_yolo(model: Yolo, engine: Engine, image_size: tuple[int, int], *, rect: bool, batch: int = 1) -> ParityRecord:
    """Run model and graph on the probe images and return the verdict.

    Args:
        model: In evaluation mode.
        engine: Its graph, without suppression.
        image_size: (height, width) of the input, px.
        rect: The graph's input size is free.
        batch: Images per call: copies of each probe.
    """

    def reference(feed: FloatArray) -> list[FloatArray]:
        with torch.no_grad():
            return [output.numpy() for output in model(torch.from_numpy(feed))]

    feeds = probe_feeds(image_size, batch, rect=rect, stride=max(model.config.strides))
    return compare_yolo(reference, engine, model.config.classes, feeds, FP32_YOLO)


def suppression_error(
    raw: Engine,
    suppressed: Engine,
    config: YoloConfig,
    record: SuppressionRecord,
    image_size: tuple[int, int],
    *,
    rect: bool,
    batch: int = 1,
) -> float:
    """Return the largest error of a suppressing graph's rows, compared with the host's; inf for another number of rows.

    Args:
        raw: The graph without suppression.
        suppressed: The graph with it.
        config: The model's architecture.
        record: The parameters of suppression.
        image_size: (height, width) of the input, px.
        rect: The input size is free.
        batch: Images per call.
    """
    thresholds = Thresholds(record.conf, record.iou, record.max_det, agnostic=record.agnostic)
    choose = best_pairs if config.one_to_one else detect
    worst = 0.0
    for _, feed in probe_feeds(image_size, batch, rect=rect, stride=max(config.strides)):
        kept = choose(raw.run({INPUT: feed}, [OUTPUT])[OUTPUT][0], config.classes, thresholds)
        wanted = np.column_stack([kept.boxes, kept.scores, kept.classes, kept.coefficients])
        found = suppressed.run({INPUT: feed}, [OUTPUT])[OUTPUT][0]
        if np.any(found[len(wanted) :]):
            return float("inf")
        worst = max(worst, worst_error(wanted, found[: len(wanted)]))
    return worst
