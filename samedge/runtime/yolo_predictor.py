"""YOLO and FastSAM on one image after another: letterbox, one run of the graph, suppression, masks."""

from __future__ import annotations

import os
from time import perf_counter
from types import TracebackType

import numpy as np
from typing_extensions import Self

from samedge.engines.protocol import Engine
from samedge.errors import UsageError
from samedge.runtime.detections import Detections, Thresholds, detect, select
from samedge.runtime.letterbox import Letterbox
from samedge.runtime.prototypes import draw_masks
from samedge.runtime.results import Results
from samedge.runtime.yolo_graph import YoloGraph
from samedge.types import Array, FloatArray, ImageArray

DEFAULT_THRESHOLDS = Thresholds()


class YoloPredictor:
    """A YOLO graph that can be asked for boxes and masks.

    Args:
        engine: The graph; closed with the predictor.
        graph: How it is fed and read.

    Attributes:
        engine: As given.
        graph: As given.
    """

    def __init__(self, engine: Engine, graph: YoloGraph) -> None:
        self.engine = engine
        self.graph = graph

    def predict(
        self,
        bgr: ImageArray,
        *,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        image_size: int | tuple[int, int] | None = None,
        rect: bool = True,
        path: str | os.PathLike[str] | None = None,
    ) -> Results:
        """Returns the objects in an image: boxes, and masks at its size where the model segments.

        Objects whose mask is empty are left out.

        Args:
            bgr: uint8 ``(H, W, 3)``.
            thresholds: Which boxes are kept.
            image_size: (height, width) of the input, or its side, px; the graph's own if None.
            rect: Where the graph's input size is free, cut the padding down to the next multiple of the stride.
            path: Where the image came from.

        Raises:
            UsageError: The graph takes no such image size.
            EngineError: The graph failed.
        """
        start = perf_counter()
        height, width = self._input_size(image_size)
        rect = rect and not self.graph.fixed_size
        rows, columns = bgr.shape[:2]
        letterbox = Letterbox.of(rows, columns, height, width, rect=rect, stride=self.graph.stride)
        feed: Array = letterbox.input(bgr)
        if self.graph.half:
            feed = feed.astype(np.float16)
        prepared = perf_counter()
        outputs = self.engine.run({self.graph.input: feed}, self.graph.outputs)
        ran = perf_counter()
        first, *prototypes = (outputs[name][0].astype(np.float32, copy=False) for name in self.graph.outputs)
        found = self._detections(first, len(prototypes[0]) if prototypes else 0, thresholds)
        boxes = letterbox.to_image(found.boxes)
        data = np.column_stack([boxes, found.scores, found.classes])
        masks = None
        if prototypes:
            masks = draw_masks(prototypes[0], found.coefficients, boxes, letterbox)
            there = masks.any((1, 2))
            data, masks = (data, masks) if there.all() else (data[there], masks[there])
        speed = {
            "preprocess": (prepared - start) * 1e3,
            "inference": (ran - prepared) * 1e3,
            "postprocess": (perf_counter() - ran) * 1e3,
        }
        names = self.graph.names or {number: str(number) for number in range(len(first) - 4)}
        return Results(bgr, path, names, boxes=data, masks=masks, speed=speed)

    def _input_size(self, asked: int | tuple[int, int] | None) -> tuple[int, int]:
        if asked is None:
            return self.graph.image_size
        stride = self.graph.stride
        sides = (asked, asked) if isinstance(asked, int) else tuple(asked)
        if len(sides) != 2 or min(sides) < 1:
            raise UsageError(f"imgsz is {asked}", cure="Give a side, or (height, width), in px")
        height, width = (-(-side // stride) * stride for side in sides)
        if self.graph.fixed_size and (height, width) != self.graph.image_size:
            fixed = " x ".join(str(side) for side in self.graph.image_size)
            raise UsageError(
                f"imgsz is {asked}, and this graph takes {fixed} px (height x width) alone",
                cure="Leave imgsz out, or export the model with free sizes",
            )
        return height, width

    def _detections(self, output: FloatArray, coefficients: int, thresholds: Thresholds) -> Detections:
        if self.graph.suppressed:
            return select(output, thresholds)
        return detect(output, output.shape[0] - 4 - coefficients, thresholds)

    def close(self) -> None:
        """Frees the graph."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
