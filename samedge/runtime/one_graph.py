"""Prediction with families of a single graph from an image to masks.

The graph takes ``[N, 3, S, S]``, normalised by the manifest's mean and deviation. Its first output is the logits of M
masks over the square input, ``[N, M, h, w]``; the optional second is their scores, ``[N, M]``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from time import perf_counter

import numpy as np

from samedge.bundle.manifest import InputRecord, Manifest
from samedge.engines.protocol import Engine
from samedge.runtime.image.geometry import ImageGeometry, normalised_input
from samedge.runtime.image.read import ImageSource, as_bgr, path_of
from samedge.runtime.image.value_range import ValueRange
from samedge.runtime.masks.masks import draw_mask, empty_masks
from samedge.runtime.prompts.shapes import PromptLike
from samedge.runtime.results.boxes import boxes_of_masks
from samedge.runtime.results.choose import choose
from samedge.runtime.results.results import Results
from samedge.types import Array, BoolArray, Closing, FloatArray, ImageArray

DEFAULT_CONF = 0.25


def feed_of(bgr: ImageArray, geometry: ImageGeometry, source: InputRecord, engine: Engine) -> dict[str, Array]:
    """Return the graph's input for an image."""
    (name, spec), *_ = engine.inputs.items()
    prepared = normalised_input(bgr, geometry, source)
    return {name: prepared.astype(spec.dtype, copy=False)}


def read_outputs(outputs: Mapping[str, Array]) -> tuple[FloatArray, FloatArray]:
    """Return logits ``[M, h, w]`` and scores ``[M]`` of the first image; scores are 1 if the graph returns none."""
    maps, *others = (output[0].astype(np.float32, copy=False) for output in outputs.values())
    return maps, others[0].reshape(-1) if others else np.ones(len(maps), np.float32)


def draw_masks(maps: FloatArray, geometry: ImageGeometry, threshold: float) -> BoolArray:
    """Return masks at the size of the image, bool ``[M, H, W]``."""
    masks = empty_masks(len(maps), geometry.height, geometry.width)
    for logits, mask in zip(maps, masks, strict=True):
        draw_mask(logits, geometry, threshold, mask)
    return masks


class OneGraphPredictor(Closing):
    """Segments everything in an image in one run; prompts choose among the masks.

    Attributes:
        info: Manifest of the bundle.
        engine: The graph; closed with the predictor.
        value_range: The values of images that become black and white; None for the rule of `to_uint8`.
    """

    def __init__(self, info: Manifest, engine: Engine) -> None:
        self.info = info
        self.engine = engine
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
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        bboxes: PromptLike | None = None,
        *,
        conf: float | None = DEFAULT_CONF,
        path: str | os.PathLike[str] | None = None,
    ) -> Results:
        """Return the masks of an image that the prompts select; without prompts, all.

        Args:
            image: A path, uint8 BGR ``(H, W, 3)``, or another source of one image.
            points: (x, y) in px: ``(2,)`` or ``(P, 2)``; together they select the masks that contain any of them.
            labels: 1 inside, 0 outside, ``(P,)``; by default all 1.
            bboxes: (x1, y1, x2, y2) in px: each selects the mask that overlaps it best.
            conf: Minimum score, exclusive; None keeps all.
            path: Source of the image, for arrays.

        Raises:
            PromptError: A prompt is invalid.
            ImageError: The image cannot be read.
            EngineError: The graph failed.
        """
        start = perf_counter()
        bgr = as_bgr(image, self.value_range)
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
        """Return the results for the graph's outputs; empty masks are left out."""
        maps, scores = read_outputs(outputs)
        rows = np.arange(len(maps)) if conf is None else np.flatnonzero(scores > conf)
        masks = draw_masks(maps[rows], geometry, self.info.input.mask_threshold)
        present = masks.any((1, 2))
        rows, masks = rows[present], masks[present]
        boxes = np.column_stack([boxes_of_masks(masks), scores[rows], np.zeros(len(rows))])
        return Results(bgr, path, {0: "object"}, boxes=boxes, masks=masks, prompt_index=rows)

    def close(self) -> None:
        """Release the graph. Idempotent."""
        self.engine.close()
