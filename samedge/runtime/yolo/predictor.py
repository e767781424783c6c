"""Prediction with YOLO and FastSAM: letterbox, one run of the graph, suppression, masks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from samedge.bundle.manifest import Manifest
from samedge.engines.protocol import Engine
from samedge.errors import UsageError
from samedge.runtime.image.letterbox import Letterbox
from samedge.runtime.image.read import ImageSource, as_bgr, path_of
from samedge.runtime.image.value_range import ValueRange
from samedge.runtime.results.results import Results
from samedge.runtime.yolo.detections import Detections, Thresholds, best_pairs, detect, select
from samedge.runtime.yolo.graph import YoloGraph
from samedge.runtime.yolo.input_limits import InputLimits
from samedge.runtime.yolo.prototypes import anything_inside, draw_masks
from samedge.types import Array, Closing, FloatArray, ImageArray

DEFAULT_THRESHOLDS = Thresholds()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An image ready for the graph."""

    bgr: ImageArray
    path: str | os.PathLike[str] | None
    letterbox: Letterbox
    feed: Array
    milliseconds: float


class YoloPredictor(Closing):
    """Finds objects with a YOLO graph: boxes, and masks if it segments. Keeps nothing between images.

    `samedge.load` makes one from the bundle of a YOLOv8 or FastSAM. Use it as a context manager, or call `close` when
    done.

    Attributes:
        engine: The graph; closed with the predictor.
        graph: Description of its inputs and outputs.
        info: Manifest of the bundle; None for a bare graph file.
        limits: Sizes that the engine accepts.
        value_range: The values of images that become black and white; None for the rule of `to_uint8`.
    """

    def __init__(
        self, engine: Engine, graph: YoloGraph, info: Manifest | None = None, limits: InputLimits | None = None
    ) -> None:
        self.engine = engine
        self.graph = graph
        self.info = info
        self.limits = limits or InputLimits()
        self.value_range: ValueRange = None

    @property
    def backend(self) -> str:
        """Backend that runs the graph."""
        return self.engine.backend

    @property
    def device(self) -> str:
        """Device actually used, such as "cpu" or "cuda:0"."""
        return self.engine.device

    def predict(
        self,
        image: ImageSource,
        *,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        image_size: int | tuple[int, int] | None = None,
        rect: bool = True,
        path: str | os.PathLike[str] | None = None,
    ) -> Results:
        """Return the objects in an image: boxes, and masks at its size if the model segments.

        Objects with an empty mask are left out, see `Thresholds.retina_masks`.

        Args:
            image: A path, uint8 BGR ``(H, W, 3)``, or another source of one image.
            thresholds: Thresholds for the boxes.
            image_size: (height, width) of the input, or its side, px; None for the graph's own.
            rect: Trim the padding to the next multiple of the stride, if the input size is free. An engine that does
                not accept the trimmed size gets the whole square.
            path: Source of the image, for arrays.

        Raises:
            UsageError: The graph or engine does not accept this image size.
            ImageError: The image cannot be read.
            EngineError: The graph failed.
        """
        prepared = self._prepare(image, self._input_size(image_size), rect, path)
        return self._run([prepared], thresholds)[0]

    def predict_batch(
        self,
        images: Sequence[ImageSource],
        *,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        image_size: int | tuple[int, int] | None = None,
        rect: bool = True,
    ) -> list[Results]:
        """Return the objects in each image, as `predict`; images whose inputs have the same shape are run together.

        All images are in memory at once. Arguments and errors are those of `predict`.
        """
        size = self._input_size(image_size)
        groups: dict[tuple[int, ...], list[tuple[int, _Prepared]]] = {}
        for number, image in enumerate(images):
            prepared = self._prepare(image, size, rect, None)
            groups.setdefault(prepared.feed.shape, []).append((number, prepared))
        results: dict[int, Results] = {}
        for group in groups.values():
            step = self.graph.batch or self.limits.images_at_once(len(group))
            for at in range(0, len(group), step):
                numbers, batch = zip(*group[at : at + step], strict=True)
                results |= zip(numbers, self._run(batch, thresholds), strict=True)
        return [results[number] for number in range(len(images))]

    def _prepare(
        self, image: ImageSource, size: tuple[int, int], rect: bool, path: str | os.PathLike[str] | None
    ) -> _Prepared:
        start = perf_counter()
        bgr = as_bgr(image, self.value_range)
        rect = rect and not self.graph.fixed_size
        letterbox = self.limits.letterbox(bgr.shape, size, rect=rect, stride=self.graph.stride)
        feed: Array = letterbox.input(bgr)
        if self.graph.half:
            feed = feed.astype(np.float16)
        return _Prepared(bgr, path or path_of(image), letterbox, feed, (perf_counter() - start) * 1e3)

    def _run(self, batch: Sequence[_Prepared], thresholds: Thresholds) -> list[Results]:
        """Run images of one input shape, at most as many as the graph accepts; zeros fill a batch that is too small."""
        start = perf_counter()
        feeds = [prepared.feed for prepared in batch]
        feeds += [np.zeros_like(feeds[0])] * ((self.graph.batch or self.limits.fewest_images) - len(feeds))
        feed = feeds[0] if len(feeds) == 1 else np.concatenate(feeds)
        outputs = self.engine.run({self.graph.input: feed}, self.graph.outputs)
        milliseconds = (perf_counter() - start) * 1e3 / len(batch)
        return [
            self._results(prepared, [outputs[name][at] for name in self.graph.outputs], thresholds, milliseconds)
            for at, prepared in enumerate(batch)
        ]

    def _results(
        self, prepared: _Prepared, outputs: Sequence[Array], thresholds: Thresholds, inference: float
    ) -> Results:
        start = perf_counter()
        first, *prototypes = (output.astype(np.float32, copy=False) for output in outputs)
        found = self._detections(first, len(prototypes[0]) if prototypes else 0, thresholds)
        boxes = prepared.letterbox.to_image(found.boxes)
        data, masks = np.column_stack([boxes, found.scores, found.classes]), None
        if prototypes:
            masks = draw_masks(prototypes[0], found.coefficients, boxes, prepared.letterbox)
            if thresholds.retina_masks:
                present = masks.any((1, 2))
            else:
                present = anything_inside(prototypes[0], found.coefficients, found.boxes, prepared.letterbox)
            if not present.all():  # indexing copies
                data, masks = data[present], masks[present]
        speed = {
            "preprocess": prepared.milliseconds,
            "inference": inference,
            "postprocess": (perf_counter() - start) * 1e3,
        }
        return Results(prepared.bgr, prepared.path, self._names(found, first), boxes=data, masks=masks, speed=speed)

    def _names(self, found: Detections, output: FloatArray) -> Mapping[int, str]:
        if self.graph.names:
            return self.graph.names
        if self.graph.suppressed:  # the output does not reveal the number of classes
            count = int(found.classes.max(initial=-1)) + 1
        else:
            count = len(output) - 4 - found.coefficients.shape[1]
        return {number: str(number) for number in range(count)}

    def _input_size(self, image_size: int | tuple[int, int] | None) -> tuple[int, int]:
        if image_size is None:
            return self.limits.usual(self.graph.image_size)
        stride = self.graph.stride
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sides) != 2 or min(sides) < 1:
            raise UsageError(f"invalid imgsz {image_size}", cure="Give a side, or (height, width), in px")
        height, width = (-(-side // stride) * stride for side in sides)
        if self.graph.fixed_size and (height, width) != self.graph.image_size:
            fixed = " x ".join(str(side) for side in self.graph.image_size)
            raise UsageError(
                f"imgsz is {image_size}, but this graph accepts only {fixed} px (height x width)",
                cure="Omit imgsz, or export the model with free sizes",
            )
        if not self.limits.accepts(height, width):
            raise UsageError(
                f"imgsz is {image_size}, but this engine accepts {self.limits} px (height x width)",
                cure="Omit imgsz, or build the engine with --height and --width that include it",
            )
        return height, width

    def _detections(self, output: FloatArray, coefficients: int, thresholds: Thresholds) -> Detections:
        if self.graph.suppressed:
            return select(output, thresholds)
        choose = best_pairs if self.graph.one_to_one else detect
        return choose(output, output.shape[0] - 4 - coefficients, thresholds)

    def close(self) -> None:
        """Release the graph. Idempotent."""
        self.engine.close()
