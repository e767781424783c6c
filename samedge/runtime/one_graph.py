"""A family of one graph that takes an image and gives masks: its predictor, and how its outputs are read.

The graph takes ``[N, 3, S, S]``, normalised as the manifest says; its first output is the logits of M masks ``[N, M, h,
w]`` over the square input, its second, where there is one, their scores ``[N, M]``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from time import perf_counter
from types import TracebackType

import numpy as np
from typing_extensions import Self

from samedge.bundle.manifest import InputRecord, Manifest
from samedge.engines.protocol import Engine
from samedge.runtime.image.geometry import ImageGeometry, normalised_input
from samedge.runtime.image.read import ImageSource, as_bgr, path_of
from samedge.runtime.masks.masks import draw_mask, empty_masks
from samedge.runtime.prompts.shapes import PromptLike
from samedge.runtime.results.boxes import boxes_of_masks
from samedge.runtime.results.choose import choose
from samedge.runtime.results.results import Results
from samedge.types import Array, BoolArray, FloatArray, ImageArray

DEFAULT_CONF = 0.25


def feed_of(bgr: ImageArray, geometry: ImageGeometry, source: InputRecord, engine: Engine) -> dict[str, Array]:
    """Return what the graph takes for an image."""
    (name, spec), *_ = engine.inputs.items()
    prepared = normalised_input(bgr, geometry, source.pixel_mean, source.pixel_std)
    return {name: prepared.astype(spec.dtype, copy=False)}


def read_outputs(outputs: Mapping[str, Array]) -> tuple[FloatArray, FloatArray]:
    """Return logits ``[M, h, w]`` and scores ``[M]`` of the first image; scores are 1 where the graph gives none."""
    maps, *others = (output[0].astype(np.float32, copy=False) for output in outputs.values())
    return maps, others[0].reshape(-1) if others else np.ones(len(maps), np.float32)


def draw_masks(maps: FloatArray, geometry: ImageGeometry, threshold: float) -> BoolArray:
    """Return masks at the size of the image, bool ``[M, H, W]``."""
    masks = empty_masks(len(maps), geometry.height, geometry.width)
    for logits, mask in zip(maps, masks, strict=True):
        draw_mask(logits, geometry, threshold, mask)
    return masks


class OneGraphPredictor:
    """Everything in an image, in one run; prompts choose among the masks.

    Args:
        info: What the bundle says about itself.
        engine: The graph; closed with the predictor.

    Attributes:
        info: As given.
        engine: As given.
    """

    def __init__(self, info: Manifest, engine: Engine) -> None:
        self.info = info
        self.engine = engine

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
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        bboxes: PromptLike | None = None,
        *,
        conf: float | None = DEFAULT_CONF,
        path: str | os.PathLike[str] | None = None,
    ) -> Results:
        """Return the masks of an image: those that prompts mean, or all.

        Args:
            image: A path, uint8 BGR ``(H, W, 3)``, or another source of one image.
            points: (x, y) in px: ``(2,)`` or ``(P, 2)``; together they mean the masks that hold any of them.
            labels: 1 inside, 0 outside, ``(P,)``; all 1 if left out.
            bboxes: (x1, y1, x2, y2) in px: each means the mask that overlaps it best.
            conf: Keep masks that score more; None keeps all.
            path: Where the image came from, if it is not a path itself.

        Raises:
            PromptError: A prompt cannot be used.
            ImageError: The image cannot be read.
            EngineError: The graph failed.
        """
        start = perf_counter()
        bgr = as_bgr(image)
        geometry = ImageGeometry.of(bgr.shape[0], bgr.shape[1], self.info.input.image_size)
        feed = feed_of(bgr, geometry, self.info.input, self.engine)
        prepared = perf_counter()
        outputs = self.engine.run(feed)
        ran = perf_counter()
        found = self.results(bgr, geometry, outputs, path or path_of(image), conf=conf)
        found = choose(found, bboxes, points, labels)
        done = perf_counter()
        milliseconds = [(end - begin) * 1e3 for begin, end in ((start, prepared), (prepared, ran), (ran, done))]
        found.speed = dict(zip(("preprocess", "inference", "postprocess"), milliseconds, strict=True))
        return found

    def results(
        self,
        bgr: ImageArray,
        geometry: ImageGeometry,
        outputs: Mapping[str, Array],
        path: str | os.PathLike[str] | None = None,
        *,
        conf: float | None = DEFAULT_CONF,
    ) -> Results:
        """Return what the graph found in an image; masks without a pixel are left out."""
        maps, scores = read_outputs(outputs)
        rows = np.arange(len(maps)) if conf is None else np.flatnonzero(scores > conf)
        masks = draw_masks(maps[rows], geometry, self.info.input.mask_threshold)
        there = masks.any((1, 2))
        rows, masks = rows[there], masks[there]
        boxes = np.column_stack([boxes_of_masks(masks), scores[rows], np.zeros(len(rows))])
        return Results(bgr, path, {0: "object"}, boxes=boxes, masks=masks, prompt_index=rows)

    def close(self) -> None:
        """Free the graph."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
