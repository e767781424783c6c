"""Prompting of one crop: points in, masks that pass the thresholds out, rejecting the rest as cheaply as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from samedge.errors import UsageError
from samedge.runtime.decoder.decoders import ImageContext
from samedge.runtime.decoder.schemes import SamGraphs
from samedge.runtime.everything.candidates import Candidate
from samedge.runtime.everything.crops import Crop, cut_by_crop
from samedge.runtime.everything.parameters import EverythingParameters
from samedge.runtime.everything.stability import DrawnMask, Levels, draw_all, estimate_stability
from samedge.runtime.everything.watch import Watch
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.masks.rle import encode_rle_window
from samedge.runtime.prompts.shapes import PADDING
from samedge.runtime.prompts.tokens import PromptGroup
from samedge.types import FloatArray, ImageArray


@dataclass(slots=True)
class Tally:
    """Counters of a run; see `samedge.runtime.everything.found.Statistics`."""

    crops_encoded: int = 0
    decoder_prompts: int = 0
    decoder_calls: int = 0
    masks_scored: int = 0
    masks_drawn: int = 0
    masks_rescored: int = 0
    masks_upscaled: int = 0
    graphs_seconds: float = 0.0
    complete: bool = True

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the duration of the block to the graphs' time."""
        begin = perf_counter()
        yield
        self.graphs_seconds += perf_counter() - begin


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The image to segment.

    Attributes:
        graphs: Graphs of the bundle.
        mask_threshold: A pixel belongs to a mask if its logit is greater.
        geometry: Geometry of the image.
        context: Returns the decoder context of the whole image.
        pixels: BGR uint8 ``(H, W, 3)``, to cut crops from; None if only the embedding is available.
        prompts_per_call: Maximum number of points per call of the decoder.
    """

    graphs: SamGraphs
    mask_threshold: float
    geometry: ImageGeometry
    context: Callable[[], ImageContext]
    pixels: ImageArray | None
    prompts_per_call: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in px."""
        return self.geometry.height, self.geometry.width

    def known_pixels(self) -> ImageArray:
        """Return the pixels; raise UsageError if only the embedding is available."""
        if self.pixels is None:
            raise UsageError(
                "crops need the image, but only its embedding is available",
                where="crop_n_layers",
                cure="Set the image with set_image (in a stream, give keep_images=True), or omit the crops",
            )
        return self.pixels

    def crop(self, crop: Crop) -> tuple[ImageContext, ImageGeometry]:
        """Return the decoder context and geometry of a crop."""
        if crop.layer == 0:
            return self.context(), self.geometry
        geometry = self.graphs.geometry(crop.height, crop.width)
        part = np.ascontiguousarray(self.known_pixels()[crop.top : crop.bottom, crop.left : crop.right])
        return self.graphs.decoder.context(*self.graphs.encode(self.graphs.prepare(part, geometry))), geometry


@dataclass(slots=True, eq=False)
class Sweep:
    """A sweep of points over one crop of an image.

    Attributes:
        scene: The image.
        crop: Position of the crop in the image; `context` and `geometry` are those of the crop.
        points: float64 ``[N, 2]``: (x, y) in px of the crop.
        parameters: Thresholds.
        share: Start and end of this sweep as shares of the whole run.
        watch: Progress, cancellation and time limit.
        tally: Counters, updated here.
        margins: float32 ``[N]``: margin by which the best mask of each point passes the thresholds; negative if it does
            not, NaN until the point is prompted. A mask's margin is the smaller of those of its predicted IoU and of
            its stability, as far as low resolution determines it.
    """

    scene: Scene
    crop: Crop
    context: ImageContext
    geometry: ImageGeometry
    points: NDArray[np.float64]
    parameters: EverythingParameters
    share: tuple[float, float]
    watch: Watch
    tally: Tally
    margins: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        self.margins = np.full(len(self.points), np.nan, np.float32)

    def prompt_in_turn(self, rows: NDArray[np.intp], settled: int = 0) -> list[Candidate]:
        """Prompt the points of some indices as `prompt` does, call by call, within the time limit.

        `settled` points need no more prompting; they count as progress.
        """
        found: list[Candidate] = []
        begin, end = self.share
        points_per_call = min(self.parameters.points_per_batch, self.scene.prompts_per_call)
        for start in range(0, len(rows), points_per_call):
            if not self.watch.begin_step():
                self.tally.complete = False
                break
            self.watch.report("Prompting points", begin + (end - begin) * (settled + start) / len(self.points))
            found.extend(self.prompt(rows[start : start + points_per_call]))
            self.watch.end_step()
        return found

    def prompt(self, rows: NDArray[np.intp]) -> list[Candidate]:
        """Return the masks of some points, in their order, from one call of the decoder.

        Masks of insufficient predicted IoU or stability and masks cut by the crop are left out.
        """
        clicks = _clicks(self.geometry.to_input(self.points[rows]))
        decoder = self.scene.graphs.decoder
        with self.tally.timed():
            output = decoder.decode_prompts(self.context, clicks)
        # The first mask is for unambiguous prompts, and a click is ambiguous; some decoders have no other.
        first = min(1, decoder.mask_count - 1)
        scores = output.scores[:, first:]
        sure_by = self._sure_by(scores)
        good = sure_by > 0
        self.tally.decoder_calls += 1
        self.tally.decoder_prompts += len(rows)
        self.tally.masks_scored += scores.size
        wanted = np.flatnonzero(good.any(axis=1))
        found: list[Candidate] = []
        if len(wanted):
            with self.tally.timed():
                drawn = output.draw(wanted)
            self.tally.masks_drawn += len(wanted) * decoder.mask_count
            at, token = np.nonzero(good[wanted])
            drawn = drawn[:, first:][at, token]
            at = wanted[at]
            found, stable_by = self._measure(drawn, scores[at, token], rows[at])
            # If some mask is certain enough, the others were not measured, and rank lower.
            sure_by[wanted] = np.where(good[wanted], sure_by[wanted], -np.inf)
            sure_by[at, token] = np.minimum(sure_by[at, token], stable_by)
        self.margins[rows] = sure_by.max(axis=1)
        return found

    def _sure_by(self, scores: FloatArray) -> FloatArray:
        """Return the margin of predicted IoUs over the threshold; infinity without a threshold."""
        least = self.parameters.pred_iou_thresh
        return scores - np.float32(least) if least > 0 else np.full(scores.shape, np.inf, np.float32)

    def _measure(
        self, logits: FloatArray, scores: FloatArray, rows: NDArray[np.intp]
    ) -> tuple[list[Candidate], FloatArray]:
        """Return the stable masks that the crop does not cut, and the stability margins of all: float32 ``[K]``."""
        levels = Levels.around(self.scene.mask_threshold, self.parameters.stability_score_offset)
        least = self.parameters.stability_score_thresh
        stable_by = np.full(len(rows), np.inf, np.float32)
        if least > 0:
            estimate = estimate_stability(logits, self.geometry, levels)
            hopeful = ~estimate.too_low(least)
            stable_by = np.nan_to_num(estimate.stability, nan=0.0) - np.float32(least)
            self.tally.masks_rescored += int(np.count_nonzero(estimate.near(least)))
            logits, scores, rows = logits[hopeful], scores[hopeful], rows[hopeful]
        found: list[Candidate] = []
        for mask, score, row in zip(draw_all(logits, self.geometry, levels), scores, rows, strict=True):
            self.tally.masks_upscaled += 1
            if least <= 0 or mask.stability >= np.float32(least):
                found.append(self._candidate(mask, score, int(row)))
        boxes = np.array([candidate.box for candidate in found], np.float32).reshape(-1, 4)
        cut = cut_by_crop(boxes, self.crop, *self.scene.shape)
        return [candidate for candidate, is_cut in zip(found, cut, strict=True) if not is_cut], stable_by

    def _candidate(self, mask: DrawnMask, score: np.float32, row: int) -> Candidate:
        left, top = self.crop.left, self.crop.top
        x, y = self.points[row]
        first_row, first_column = top + mask.window.rows.start, left + mask.window.columns.start
        return Candidate(
            rle=encode_rle_window(mask.inside, first_row, first_column, self.scene.shape),
            box=mask.box + np.array([left, top, left, top], np.float32),
            predicted_iou=score,
            stability=mask.stability,
            point=(float(x) + left, float(y) + top),
            crop=self.crop,
            grid_index=row,
        )


def _clicks(coords: FloatArray) -> PromptGroup:
    """Return a single-point prompt for each point ``[N, 2]``, (x, y) in px of the resized image."""
    count = len(coords)
    tokens = np.zeros((count, 2, 2), np.float32)
    tokens[:, 0] = coords
    labels = np.tile(np.array([1, PADDING], np.int32), (count, 1))
    return PromptGroup(np.arange(count), tokens, labels, None, np.zeros(count, np.float32))
