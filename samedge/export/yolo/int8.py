"""int8 convolutions for a YOLO, by Q/DQ pairs with ranges measured on the user's images, if objects are preserved.

The layers that produce boxes, scores and coefficients stay float32: the last layer of each branch of the head, the
expectation over bins, and the decoding of boxes. OpenVINO and TensorRT run the rest in int8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import onnx

from samedge.bundle.manifest import GraphRecord, ParityRecord
from samedge.engines.registry import availability, open_engine
from samedge.export.family import part_of
from samedge.export.precision.calibration import Calibration, activation_ranges
from samedge.export.precision.int8 import Convolution, convolutions, quantise_layers
from samedge.export.precision.ladder import Chosen, Rung, WrittenGraph, climb, int8_backend
from samedge.export.yolo.agreement import THRESHOLDS, agreement, verdict_of
from samedge.models.yolo.yolo import YoloConfig
from samedge.runtime.image.letterbox import Letterbox
from samedge.runtime.image.read import as_bgr
from samedge.runtime.yolo.graph import INPUT, describe_yolo
from samedge.runtime.yolo.predictor import YoloPredictor
from samedge.types import Array, Progress

_TIMED_TOO: Final = ("onnxruntime", "openvino")


def int8_yolo(
    fp32: WrittenGraph,
    images: list[Path],
    size: tuple[int, int],
    config: YoloConfig,
    metadata: Mapping[str, str],
    report: Progress,
    *,
    check: bool,
    dynamic: bool,
) -> Chosen:
    """Write a graph in int8 beside the float32 one, keep one of them, and return which and why.

    Rungs: every convolution followed by an activation; the same without the head; none.

    Args:
        fp32: The float32 graph. Removed if int8 is used.
        images: Images for measuring ranges and comparing objects.
        size: (height, width) of the input, px.
        config: The model's architecture.
        metadata: Metadata of the graph's file.
        report: Called as the work proceeds.
        check: Compare the objects with float32's; otherwise the first rung is used unchecked, whatever its speed.
        dynamic: The input size is free.
    """
    calibration = Calibration(partial(_feeds, images, size, rect=dynamic, stride=max(config.strides)), len(images))
    model = onnx.load(str(fp32.path))
    watched = [layer.activation for layer in _inner(model.graph)]
    ranges = activation_ranges(model, watched, calibration, fp32.folder, part_of(report, 0.0, 0.4))
    del model
    rungs = [
        Rung("every convolution before an activation", partial(_quantise, ranges=ranges, keep="")),
        Rung("the convolutions before the head", partial(_quantise, ranges=ranges, keep=f"model.{config.head_layer}.")),
    ]
    backend = int8_backend(calibration)
    also = [name for name in _TIMED_TOO if name != backend and availability(name).ok]
    judge = partial(_judge, fp32, images, metadata) if check else None
    return climb(
        fp32, rungs, "int8 static", backend, judge, report,
        nothing="the model has no convolution before an activation",
        sizes={"height": size[0], "width": size[1]}, also=also,
    )  # fmt: skip


def _inner(graph: onnx.GraphProto) -> list[Convolution]:
    """Return the convolutions followed by SiLU: all but the head's last ones and the expectation."""
    activated = {node.input[0] for node in graph.node if node.op_type == "Sigmoid"}
    return [layer for layer in convolutions(graph) if layer.node.output[0] in activated]


def _quantise(model: onnx.ModelProto, *, ranges: Mapping[str, float], keep: str) -> int:
    layers = [layer for layer in _inner(model.graph) if not keep or not layer.weight.startswith(keep)]
    return quantise_layers(model, ranges, layers)


def _feeds(images: list[Path], size: tuple[int, int], *, rect: bool, stride: int) -> Iterator[dict[str, Array]]:
    for path in images:
        bgr = as_bgr(path)
        yield {INPUT: Letterbox.of(bgr.shape[0], bgr.shape[1], *size, rect=rect, stride=stride).input(bgr)}


def _judge(
    fp32: WrittenGraph, images: list[Path], metadata: Mapping[str, str], graph: GraphRecord, backend: str
) -> ParityRecord:
    """Compare the objects that the graph finds with those of the float32 graph, both on this backend."""
    with (
        open_engine(fp32.path, backend=backend, device="cpu") as a,
        open_engine(fp32.folder / graph.graph.file, backend=backend, device="cpu") as b,
    ):
        found = agreement(
            YoloPredictor(a, describe_yolo(a, metadata)), YoloPredictor(b, describe_yolo(b, metadata)), images
        )
        return ParityRecord(
            verdict=verdict_of(found),
            backend=f"{b.backend} {b.device}",
            mask_iou_mean=1.0 if found.mask_iou is None else found.mask_iou,
            objects=found,
            thresholds=dict(THRESHOLDS),
        )
