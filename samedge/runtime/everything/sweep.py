"""Prompting of one crop: points in, masks that pass the thresholds out, rejecting the rest as cheaply as possible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from samedge.runtime.decoder.decoders import MASK_TOKENS, ImageContext
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
from samedge.types import FloatArray


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


@dataclass(slots=True, eq=False)
class Sweep:
    """A sweep of points over one crop of an image.

    Attributes:
        graphs: Graphs of the bundle.
        context: Decoder context of the crop.
        geometry: Geometry of the crop.
        crop: Position of the crop in the image.
        image_shape: (height, width) of the image, px.
        parameters: Thresholds.
        mask_threshold: A pixel belongs to a mask if its logit is greater.
        points: float64 ``[N, 2]``: (x, y) in px of the crop.
        points_per_call: Most points per call of the decoder.
        share: Start and end of this sweep as shares of the whole run.
        watch: Progress, cancellation and time limit.
        tally: Counters, updated here.
        margins: float32 ``[N]``: margin by which the best mask of each point passes the thresholds; negative if it does
            not, NaN until the point is prompted. A mask's margin is the smaller of those of its predicted IoU and of
            its stability, as far as low resolution determines it.
    """

    graphs: SamGraphs
    context: ImageContext
    geometry: ImageGeometry
    crop: Crop
    image_shape: tuple[int, int]
    parameters: EverythingParameters
    mask_threshold: float
    points: NDArray[np.float64]
    points_per_call: int
    share: tuple[float, float]
    watch: Watch
    tally: Tally
    margins: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        self.margins = np.full(len(self.points), np.nan, np.float32)

    def ask_in_turn(self, rows: NDArray[np.intp], settled: int = 0) -> list[Candidate]:
        """Prompt some of the points, call by call, within the time limit.

        Args:
            rows: int ``[K]``: indices of the points.
            settled: Number of points that need no more prompting, for the progress.

        Returns:
            As `ask`.

        Raises:
            CancelledError: The caller cancelled.
        """
        found: list[Candidate] = []
        begin, end = self.share
        for start in range(0, len(rows), self.points_per_call):
            if not self.watch.begin_step():
                self.tally.complete = False
                break
            self.watch.report("Prompting points", begin + (end - begin) * (settled + start) / len(self.points))
            found.extend(self.ask(rows[start : start + self.points_per_call]))
            self.watch.end_step()
        return found

    def ask(self, rows: NDArray[np.intp]) -> list[Candidate]:
        """Prompt some of the points in one call of the decoder.

        Returns:
            The masks with sufficient predicted IoU and stability that the crop does not cut, in the order of the
            points.
        """
        with self.tally.timed():
            output = self.graphs.decoder.decode_prompts(
                self.context, _clicks(self.geometry.to_input(self.points[rows]))
            )
        scores = output.scores[:, 1:]  # the first mask is for unambiguous prompts; a click is ambiguous
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
            self.tally.masks_drawn += len(wanted) * MASK_TOKENS
            at, token = np.nonzero(good[wanted])
            drawn = drawn[:, 1:][at, token]
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
        """Drop unstable masks and those that the crop cuts; ``[K, h, w]``, ``[K]``, ``[K]``.

        Returns:
            The remaining masks, and the stability margins of all: float32 ``[K]``.
        """
        levels = Levels.around(self.mask_threshold, self.parameters.stability_score_offset)
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
        cut = cut_by_crop(boxes, self.crop, *self.image_shape)
        return [candidate for candidate, is_cut in zip(found, cut, strict=True) if not is_cut], stable_by

    def _candidate(self, mask: DrawnMask, score: np.float32, row: int) -> Candidate:
        left, top = self.crop.left, self.crop.top
        x, y = self.points[row]
        return Candidate(
            rle=encode_rle_window(
                mask.inside, top + mask.window.rows.start, left + mask.window.columns.start, self.image_shape
            ),
            box=mask.box + np.array([left, top, left, top], np.float32),
            predicted_iou=score,
            stability=mask.stability,
            point=(float(x) + left, float(y) + top),
            crop=self.crop,
            asked=row,
        )


def _clicks(coords: FloatArray) -> PromptGroup:
    """Return a single-point prompt for each point: float32 ``[N, 2]``, (x, y) in px of the resized image."""
    count = len(coords)
    tokens = np.zeros((count, 2, 2), np.float32)
    tokens[:, 0] = coords
    return PromptGroup(
        index=np.arange(count),
        coords=tokens,
        labels=np.tile(np.array([1, PADDING], np.int32), (count, 1)),
        masks=None,
        has_mask=np.zeros(count, np.float32),
    )
