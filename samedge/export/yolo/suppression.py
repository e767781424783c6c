"""Suppression of overlapping boxes in a YOLO's graph: `samedge.runtime.yolo.detections` in ONNX.

``output0`` becomes ``[N, max_det, 6 + M]``: x1, y1, x2, y2 in px of the input, score, class, and M mask coefficients;
the best box first, and zeros in unused rows, as in Ultralytics' exports with ``nms=True``. Classes are separated by the
operator's own axis, not by shifting their boxes apart, which would cost a box of class 79 two digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from samedge.bundle.yolo_record import SuppressionRecord
from samedge.models.yolo.yolo import YoloConfig
from samedge.runtime.yolo.graph import OUTPUT

_RAW: Final = "anchors"
_PREFIX: Final = "nms_"


def add_suppression(
    model: onnx.ModelProto, config: YoloConfig, record: SuppressionRecord, *, anchors: int | None
) -> None:
    """Append suppression to a graph, in place.

    Args:
        model: Traced from `plan_yolo`, in any precision with float32 outputs.
        config: The model's architecture.
        record: The parameters of suppression.
        anchors: Number of anchors; None if the input size is free.
    """
    nodes = _Nodes(model.graph)
    first = 4 + config.classes
    centre, size = nodes.rows(_RAW, 0, 2), nodes.rows(_RAW, 2, 4)
    half = nodes.add("Mul", [size, nodes.floats("half", 0.5)])
    corners = nodes.add("Concat", [nodes.add("Sub", [centre, half]), nodes.add("Add", [centre, half])], axis=1)
    boxes = nodes.add("Transpose", [corners], perm=[0, 2, 1])
    scores = nodes.rows(_RAW, 4, first)
    number = nodes.add("ArgMax", [scores], axis=1, keepdims=1)
    best = nodes.add("GatherElements", [scores, number], axis=1)
    kept = _kept_scores(nodes, boxes, best, scores, number, config.classes, record)
    at_most = record.max_det
    if anchors is None or anchors < at_most:
        kept = nodes.add("Pad", [kept, nodes.integers("more", [0, 0, 0, at_most])])
    top, at = nodes.add_two("TopK", [kept, nodes.integers("max_det", [at_most])], axis=1, largest=1, sorted=1)
    if anchors is None or anchors < at_most:
        count = nodes.add("Gather", [nodes.add("Shape", [best]), nodes.integers("last", [2])], axis=0)
        at = nodes.add("Min", [at, nodes.add("Sub", [count, nodes.integers("one", [1])])])
    parts = [corners, best, nodes.add("Cast", [number], to=TensorProto.FLOAT)]
    if config.segments:
        parts.append(nodes.rows(_RAW, first, first + config.prototypes))
    rows = nodes.add("Transpose", [nodes.add("Concat", parts, axis=1)], perm=[0, 2, 1])
    column = nodes.integers("column", [0, at_most, 1])
    found = nodes.add("GatherND", [rows, nodes.add("Reshape", [at, column])], batch_dims=1)
    used = nodes.add("Reshape", [nodes.add("Greater", [top, nodes.floats("zero", 0.0)]), column])
    nodes.add("Where", [used, found, nodes.floats("zero", 0.0)], output=OUTPUT)
    nodes.declare_output(at_most, 6 + config.prototypes)


def add_best_boxes(
    model: onnx.ModelProto, config: YoloConfig, record: SuppressionRecord, *, anchors: int | None
) -> None:
    """Append the selection of the best boxes to the graph of a model that returns one box per object, in place.

    ``output0`` becomes ``[N, K, 6 + M]`` as in Ultralytics' exports: `samedge.runtime.yolo.detections.best_pairs` in
    ONNX. K is `max_det`, or the number of anchors if smaller.

    Args:
        model: As for `add_suppression`.
        config: The model's architecture.
        record: The parameters of suppression, of which `max_det` is used.
        anchors: Number of anchors; None if the input size is free.
    """
    nodes = _Nodes(model.graph)
    first, classes = 4 + config.classes, nodes.integers("classes", [config.classes])
    centre, size = nodes.rows(_RAW, 0, 2), nodes.rows(_RAW, 2, 4)
    half = nodes.add("Mul", [size, nodes.floats("half", 0.5)])
    corners = [nodes.add("Sub", [centre, half]), nodes.add("Add", [centre, half])]
    scores = nodes.rows(_RAW, 4, first)
    parts = [*corners, scores]
    if config.segments:
        parts.append(nodes.rows(_RAW, first, first + config.prototypes))
    rows = nodes.add("Transpose", [nodes.add("Concat", parts, axis=1)], perm=[0, 2, 1])
    most = nodes.integers("max_det", [record.max_det if anchors is None else min(record.max_det, anchors)])
    if anchors is None:
        count = nodes.add("Gather", [nodes.add("Shape", [scores]), nodes.integers("last", [2])], axis=0)
        most = nodes.add("Min", [most, count])
    best = nodes.add("GatherElements", [scores, nodes.add("ArgMax", [scores], axis=1, keepdims=1)], axis=1)
    column = nodes.add("Concat", [nodes.integers("all", [0]), most, nodes.integers("one", [1])], axis=0)
    _, at = nodes.add_two("TopK", [best, most], axis=2, largest=1, sorted=1)
    chosen = nodes.add("GatherND", [rows, nodes.add("Reshape", [at, column])], batch_dims=1)
    last = nodes.integers("axis_2", [2])
    some = nodes.add("Slice", [chosen, nodes.integers("row_4", [4]), nodes.integers(f"row_{first}", [first]), last])
    flat = nodes.add("Reshape", [some, nodes.integers("flat", [0, -1])])
    top, pair = nodes.add_two("TopK", [flat, most], axis=1, largest=1, sorted=1)
    which = nodes.add("Reshape", [nodes.add("Div", [pair, classes]), column])
    number = nodes.add("Cast", [nodes.add("Mod", [pair, classes])], to=TensorProto.FLOAT)
    found = nodes.add("GatherND", [chosen, which], batch_dims=1)
    boxes = nodes.add("Slice", [found, nodes.integers("row_0", [0]), nodes.integers("row_4", [4]), last])
    outputs = [boxes, *(nodes.add("Reshape", [part, column]) for part in (top, number))]
    if config.segments:
        ends = [nodes.integers(f"row_{end}", [end]) for end in (first, first + config.prototypes)]
        outputs.append(nodes.add("Slice", [found, *ends, last]))
    nodes.add("Concat", outputs, axis=2, output=OUTPUT)
    nodes.declare_output("boxes" if anchors is None else min(record.max_det, anchors), 6 + config.prototypes)


def _kept_scores(
    nodes: _Nodes, boxes: str, best: str, scores: str, number: str, classes: int, record: SuppressionRecord
) -> str:
    """Return the score of each anchor that is kept, and 0 for the others, ``[N, A]``."""
    ranked = best
    if not record.agnostic and classes > 1:
        numbers = nodes.constant("classes", np.arange(classes, dtype=np.int64).reshape(1, -1, 1))
        # One box per anchor: of the best-scoring class.
        ranked = nodes.add("Where", [nodes.add("Equal", [numbers, number]), scores, nodes.floats("zero", 0.0)])
    chosen = nodes.add(
        "NonMaxSuppression",
        [
            boxes,
            ranked,
            nodes.integers("max_det", [record.max_det]),
            nodes.constant("iou", np.array([record.iou], np.float32)),
            nodes.constant("conf", np.array([record.conf], np.float32)),
        ],
    )
    where = nodes.add("Gather", [chosen, nodes.integers("image_and_anchor", [0, 2])], axis=1)
    flat = nodes.add("Reshape", [best, nodes.integers("flat", [0, -1])])
    nothing = nodes.add("Mul", [flat, nodes.floats("zero", 0.0)])
    return nodes.add("ScatterND", [nothing, where, nodes.add("GatherND", [flat, where])])


class _Nodes:
    """Nodes and constants appended to a graph, whose output is renamed to `_RAW`; tensors are known by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [_RAW if name == OUTPUT else name for name in names]
        self._graph = graph
        self._constants: set[str] = set()
        self._count = 0

    def add(self, kind: str, inputs: Sequence[str], *, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        self._count += 1
        name = f"{_PREFIX}{self._count}_{kind}"
        self._graph.node.append(helper.make_node(kind, list(inputs), [output or name], name=name, **attributes))
        return output or name

    def add_two(self, kind: str, inputs: Sequence[str], **attributes: Any) -> tuple[str, str]:
        """Add a node with two outputs and return their names."""
        first = self.add(kind, inputs, **attributes)
        second = f"{first}_2"
        self._graph.node[-1].output.append(second)
        return first, second

    def declare_output(self, rows: int | str, columns: int) -> None:
        """Declare the output as ``[N, rows, columns]``."""
        for value in self._graph.output:
            if value.name == OUTPUT:
                images = value.type.tensor_type.shape.dim[0]
                shape = (images.dim_param or images.dim_value, rows, columns)
                value.CopyFrom(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape))

    def rows(self, name: str, start: int, stop: int) -> str:
        """Slice rows of a tensor ``[N, R, A]``."""
        ends = [self.integers(f"row_{start}", [start]), self.integers(f"row_{stop}", [stop])]
        return self.add("Slice", [name, *ends, self.integers("axis_1", [1])])

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Return a constant ``[K]``."""
        return self.constant(name, np.array(values, np.int64))

    def floats(self, name: str, value: float) -> str:
        """Return a scalar constant."""
        return self.constant(name, np.array(value, np.float32))

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Return a constant, added once."""
        name = f"{_PREFIX}{name}"
        if name not in self._constants:
            self._constants.add(name)
            self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name
