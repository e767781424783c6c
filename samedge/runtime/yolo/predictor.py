"""YOLO and FastSAM on one image after another: letterbox, one run of the graph, suppression, masks."""

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
from samedge.runtime.results.results import Results
from samedge.runtime.yolo.detections import Detections, Thresholds, best_pairs, detect, select
from samedge.runtime.yolo.graph import YoloGraph
from samedge.runtime.yolo.input_limits import InputLimits
from samedge.runtime.yolo.prototypes import anything_inside, draw_masks
from samedge.types import Array, Closing, FloatArray, ImageArray

DEFAULT_THRESHOLDS = Thresholds()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An image on its way through the graph."""

    bgr: ImageArray
    path: str | os.PathLike[str] | None
    letterbox: Letterbox
    feed: Array
    milliseconds: float


class YoloPredictor(Closing):
    """A YOLO graph that can be asked for boxes and masks.

    `samedge.load` makes one from the bundle of a YOLOv8 or FastSAM. Use it as a context manager, or call `close` when
    done. It keeps nothing between images.

    Args:
        engine: The graph; closed with the predictor.
        graph: How it is fed and read.
        info: What the bundle says about itself; None where there is no bundle.
        limits: Which inputs it takes of those that the graph leaves free; None for all.

    Attributes:
        engine: As given.
        graph: As given.
        info: As given.
        limits: As given.
    """

    def __init__(
        self, engine: Engine, graph: YoloGraph, info: Manifest | None = None, limits: InputLimits | None = None
    ) -> None:
        self.engine = engine
        self.graph = graph
        self.info = info
        self.limits = limits or InputLimits()

    @property
    def backend(self) -> str:
        """The backend that runs the graph."""
        return self.engine.backend

    @property
    def device(self) -> str:
        """The device really used, such as "cpu" or "cuda:0"."""
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
        """Return the objects in an image: boxes, and masks at its size where the model segments.

        Objects whose mask is empty are left out, see `Thresholds.retina_masks`.

        Args:
            image: A path, uint8 BGR ``(H, W, 3)``, or another source of one image.
            thresholds: Which boxes are kept.
            image_size: (height, width) of the input, or its side, px; the graph's own if None.
            rect: Where the graph's input size is free, cut the padding down to the next multiple of the stride. An
                engine that takes no such size gets the whole square.
            path: Where the image came from, if it is not a path itself.

        Raises:
            UsageError: The graph takes no such image size.
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
        """Return what `predict` says of each image; those whose inputs have one shape go through the graph together.

        Args:
            images: As there; all of them are in memory at once.
            thresholds: As there.
            image_size: As there.
            rect: As there.

        Raises:
            SamedgeError: As there.
        """
        size = self._input_size(image_size)
        groups: dict[tuple[int, ...], list[tuple[int, _Prepared]]] = {}
        for number, image in enumerate(images):
            prepared = self._prepare(image, size, rect, None)
            groups.setdefault(prepared.feed.shape, []).append((number, prepared))
        found: dict[int, Results] = {}
        for group in groups.values():
            step = self.graph.batch or self.limits.images_at_once(len(group))
            for at in range(0, len(group), step):
                numbers, together = zip(*group[at : at + step], strict=True)
                found |= zip(numbers, self._run(together, thresholds), strict=True)
        return [found[number] for number in range(len(images))]

    def _prepare(
        self, image: ImageSource, size: tuple[int, int], rect: bool, path: str | os.PathLike[str] | None
    ) -> _Prepared:
        start = perf_counter()
        bgr = as_bgr(image)
        rect = rect and not self.graph.fixed_size
        letterbox = self.limits.letterbox(bgr.shape, size, rect=rect, stride=self.graph.stride)
        feed: Array = letterbox.input(bgr)
        if self.graph.half:
            feed = feed.astype(np.float16)
        return _Prepared(bgr, path or path_of(image), letterbox, feed, (perf_counter() - start) * 1e3)

    def _run(self, together: Sequence[_Prepared], thresholds: Thresholds) -> list[Results]:
        """Run images of one input shape, no more than the graph takes at once."""
        start = perf_counter()
        feeds = [prepared.feed for prepared in together]
        least = self.graph.batch or self.limits.fewest_images
        feeds += [np.zeros_like(feeds[0])] * (least - len(feeds))
        feed = feeds[0] if len(feeds) == 1 else np.concatenate(feeds)
        outputs = self.engine.run({self.graph.input: feed}, self.graph.outputs)
        milliseconds = (perf_counter() - start) * 1e3 / len(together)
        return [
            self._results(prepared, [outputs[name][at] for name in self.graph.outputs], thresholds, milliseconds)
            for at, prepared in enumerate(together)
        ]

    def _results(
        self, prepared: _Prepared, outputs: Sequence[Array], thresholds: Thresholds, inference: float
    ) -> Results:
        start = perf_counter()
        first, *prototypes = (output.astype(np.float32, copy=False) for output in outputs)
        found = self._detections(first, len(prototypes[0]) if prototypes else 0, thresholds)
        boxes = prepared.letterbox.to_image(found.boxes)
        data = np.column_stack([boxes, found.scores, found.classes])
        masks = None
        if prototypes:
            masks = draw_masks(prototypes[0], found.coefficients, boxes, prepared.letterbox)
            if thresholds.retina_masks:
                there = masks.any((1, 2))
            else:
                there = anything_inside(prototypes[0], found.coefficients, found.boxes, prepared.letterbox)
            data, masks = (data, masks) if there.all() else (data[there], masks[there])
        speed = {
            "preprocess": prepared.milliseconds,
            "inference": inference,
            "postprocess": (perf_counter() - start) * 1e3,
        }
        return Results(prepared.bgr, prepared.path, self._names(found, first), boxes=data, masks=masks, speed=speed)

    def _names(self, found: Detections, output: FloatArray) -> Mapping[int, str]:
        if self.graph.names:
            return self.graph.names
        if self.graph.suppressed:  # nobody tells how many classes there are
            return {number: str(number) for number in range(int(found.classes.max(initial=-1)) + 1)}
        return {number: str(number) for number in range(len(output) - 4 - found.coefficients.shape[1])}

    def _input_size(self, asked: int | tuple[int, int] | None) -> tuple[int, int]:
        if asked is None:
            return self.limits.usual(self.graph.image_size)
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
        if not self.limits.takes(height, width):
            raise UsageError(
                f"imgsz is {asked}, and this engine takes {self.limits} px (height x width)",
                cure="Leave imgsz out, or build the engine with --height and --width that have it",
            )
        return height, width

    def _detections(self, output: FloatArray, coefficients: int, thresholds: Thresholds) -> Detections:
        if self.graph.suppressed:
            return select(output, thresholds)
        choose = best_pairs if self.graph.one_to_one else detect
        return choose(output, output.shape[0] - 4 - coefficients, thresholds)

    def close(self) -> None:
        """Free the graph."""
        self.engine.close()
