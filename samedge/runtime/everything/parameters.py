"""Parameters of segment everything, under Meta's names; Ultralytics' names are accepted as well.

Defaults are those of Meta's ``SamAutomaticMaskGenerator``. Ultralytics has the same ones except for
``stability_score_offset``, which is 0.95 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from samedge.errors import UsageError
from samedge.options import unknown_keyword
from samedge.types import Array, Progress

Mode: TypeAlias = Literal["exact", "fast"]


class Event(Protocol):
    """A flag that another thread can set, such as `threading.Event`."""

    def is_set(self) -> bool:
        """Return True once it is set."""
        ...


Cancel: TypeAlias = "Callable[[], bool] | Event"

OTHER_NAMES: Final[Mapping[str, str]] = {
    "points_stride": "points_per_side",
    "points_batch_size": "points_per_batch",
    "conf_thres": "pred_iou_thresh",
    "iou": "box_nms_thresh",
    "crop_downscale_factor": "crop_n_points_downscale_factor",
}
"""Ultralytics' names of Meta's parameters."""

_RUN_OPTIONS: Final = ("mode", "time_budget_ms", "progress", "cancel")


@dataclass(frozen=True, slots=True, eq=False)
class EverythingParameters:
    """Parameters that select the prompted points and the masks that are kept.

    Attributes:
        points_per_side: Points of the grid along each side of the image; None with `point_grids`. Ultralytics:
            ``points_stride``, which is not a stride.
        points_per_batch: Most points per call of the decoder, and never more than the predictor's
            ``prompts_per_call``. Changes memory and speed, not the masks. Ultralytics: ``points_batch_size``.
        pred_iou_thresh: Masks whose predicted IoU is not greater are dropped; 0 or less keeps all. Ultralytics:
            ``conf_thres``.
        stability_score_thresh: Masks whose stability is less are dropped; 0 or less keeps all. Stability is the IoU of
            the mask with itself when its threshold is moved up and down.
        stability_score_offset: Distance of those thresholds from the mask's, in logits. 0.95 in Ultralytics.
        box_nms_thresh: Of two masks of one crop whose boxes have a greater IoU, the one with the lower predicted IoU is
            dropped. Ultralytics: ``iou``.
        crop_n_layers: Layers of crops of the original image that are segmented again: 4 crops, 16 crops, ...
            Ultralytics cuts them out of the resized image, which shows no more detail.
        crop_nms_thresh: Of two masks of different crops whose boxes have a greater IoU, that of the larger crop is
            dropped.
        crop_overlap_ratio: Overlap of the first layer's crops, as a share of the image's short side.
        crop_n_points_downscale_factor: In layer n the grid has fewer points, by this factor to the power of n.
            Ultralytics: ``crop_downscale_factor``.
        point_grids: Points of each layer, float ``[N, 2]``: (x, y) as shares of the crop, in place of
            `points_per_side`.
        min_mask_region_area: Parts and holes of masks that are smaller, in px, are removed; 0 keeps all.

    Raises:
        UsageError: A value is invalid, or both or neither of `points_per_side` and `point_grids` are given.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[Array] | None = None
    min_mask_region_area: int = 0

    def __post_init__(self) -> None:
        if (self.points_per_side is None) == (self.point_grids is None):
            given = f"{'neither' if self.point_grids is None else 'both'} of points_per_side and point_grids are set"
            raise UsageError(given, cure="Give one of them", where="everything")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name == "points_per_side":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise UsageError(f"invalid {name} {value!r}", cure=f"Give a whole number, {least} or more", where=name)
        if self.crop_n_layers > _MOST_CROP_LAYERS:
            raise UsageError(
                f"crop_n_layers is {self.crop_n_layers}: its last layer would have {4**self.crop_n_layers:,} crops, "
                "each of which goes through the encoder",
                where="crop_n_layers",
                cure=f"Give {_MOST_CROP_LAYERS} or less",
            )
        for name in _NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
                raise UsageError(f"invalid {name} {value!r}", cure="Give a number", where=name)
        if not 0 <= self.crop_overlap_ratio < 1:
            raise UsageError(
                f"invalid crop_overlap_ratio {self.crop_overlap_ratio}",
                cure="Give a share of the short side, 0 or more and less than 1",
                where="crop_overlap_ratio",
            )
        self.grids()

    def grids(self) -> tuple[NDArray[np.float64], ...]:
        """Return the points of each layer, float64 ``[N, 2]``: (x, y) as shares of the crop.

        Raises:
            UsageError: A layer has no points, or an array is invalid.
        """
        layers, factor = self.crop_n_layers, self.crop_n_points_downscale_factor
        return layer_grids(self.points_per_side, self.point_grids, layers, factor)


_MOST_CROP_LAYERS: Final = 5
_LEAST: Final = {
    "points_per_side": 1,
    "points_per_batch": 1,
    "crop_n_layers": 0,
    "crop_n_points_downscale_factor": 1,
    "min_mask_region_area": 0,
}
_NUMBERS: Final = (
    "pred_iou_thresh",
    "stability_score_thresh",
    "stability_score_offset",
    "box_nms_thresh",
    "crop_nms_thresh",
    "crop_overlap_ratio",
)


class EverythingOptions(TypedDict, total=False):
    """Keyword arguments of segment everything.

    The parameters of `EverythingParameters` under Meta's and Ultralytics' names, and:

    mode: "exact" for the masks of Meta's generator; "fast" for most of them from far fewer points.
    time_budget_ms: With "fast", milliseconds after which no new work begins; masks found so far are returned.
    progress: Called with a sentence and the completed share, 0..1.
    cancel: A `threading.Event`, or a function that returns True to cancel; checked before each call of the decoder.
    """

    points_per_side: int | None
    points_per_batch: int
    pred_iou_thresh: float
    stability_score_thresh: float
    stability_score_offset: float
    box_nms_thresh: float
    crop_n_layers: int
    crop_nms_thresh: float
    crop_overlap_ratio: float
    crop_n_points_downscale_factor: int
    point_grids: Sequence[Array] | None
    min_mask_region_area: int
    points_stride: int | None
    points_batch_size: int
    conf_thres: float
    iou: float
    crop_downscale_factor: int
    mode: Mode
    time_budget_ms: float | None
    progress: Progress | None
    cancel: Cancel | None


@dataclass(frozen=True, slots=True, eq=False)
class EverythingRun:
    """One run of segment everything; see `EverythingOptions`.

    Raises:
        UsageError: The mode is unknown, or the time budget is invalid.
    """

    parameters: EverythingParameters
    mode: Mode = "exact"
    time_budget_ms: float | None = None
    progress: Progress | None = None
    cancel: Cancel | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("exact", "fast"):
            raise UsageError(f"unknown mode {self.mode!r}", where="mode", cure='Give "exact" or "fast"')
        if self.time_budget_ms is None:
            return
        where = "time_budget_ms"
        if self.mode == "exact":
            cure = 'Omit it, or give mode="fast"'
            raise UsageError("exact mode always prompts all points", where=where, cure=cure)
        if not self.time_budget_ms > 0:
            raise UsageError(f"invalid time budget of {self.time_budget_ms} ms", where=where, cure="Give more than 0")


def run_of(options: Mapping[str, Any]) -> EverythingRun:
    """Return the run described by keyword arguments, as in `EverythingOptions`.

    Raises:
        TypeError: A name is unknown.
        UsageError: A parameter is given under two names, or a value is invalid.
    """
    known = [*(field.name for field in fields(EverythingParameters)), *_RUN_OPTIONS]
    given: dict[str, Any] = {}
    for name, value in options.items():
        meta = OTHER_NAMES.get(name, name)
        if meta not in known:
            raise unknown_keyword(name, [*known, *OTHER_NAMES])
        if meta in given:
            other = next(o for o in options if o != name and OTHER_NAMES.get(o, o) == meta)
            raise UsageError(f"{other} and {name} are the same parameter", where="everything", cure="Give only one")
        given[meta] = value
    if given.get("point_grids") is not None:
        given.setdefault("points_per_side", None)
    run = {name: given.pop(name) for name in _RUN_OPTIONS if name in given}
    return EverythingRun(EverythingParameters(**given), **run)


def point_grid(side: int) -> NDArray[np.float64]:
    """Return the centres of ``side`` x ``side`` equal cells: float64 ``[side * side, 2]``, row by row; as Meta's."""
    offset = 1 / (2 * side)
    axis = np.linspace(offset, 1 - offset, side)
    return np.stack([np.tile(axis, side), np.repeat(axis, side)], axis=-1)


def layer_grids(
    side: int | None, grids: Sequence[Array] | None, crop_layers: int, factor: int
) -> tuple[NDArray[np.float64], ...]:
    """Return the points of the whole image and of each layer of crops, float64 ``[N, 2]``: (x, y) from 0 to 1.

    Without `grids`, the image has ``side`` x ``side`` points; layer n has fewer along each side, by ``factor ** n``.

    Raises:
        UsageError: A layer has no points, or an array is invalid.
    """
    if grids is None:
        sides = [int((side or 0) / factor**layer) for layer in range(crop_layers + 1)]
        if min(sides) < 1:
            raise UsageError(
                f"{side} points per side are too few for {crop_layers} layers of crops with a factor of {factor}",
                where="crop_n_points_downscale_factor",
                cure="Give more points, fewer layers, or a smaller factor",
            )
        return tuple(point_grid(count) for count in sides)
    arrays = tuple(np.asarray(grid, np.float64) for grid in grids)
    if len(arrays) <= crop_layers:
        raise UsageError(
            f"{len(arrays)} grids given, but the image and {crop_layers} layers of crops need {crop_layers + 1}",
            where="point_grids",
            cure="Give one grid for each",
        )
    for grid in arrays:
        # Comparisons with NaN are false, so it is rejected too.
        if grid.ndim != 2 or grid.shape[1] != 2 or not len(grid) or not ((grid >= 0) & (grid <= 1)).all():
            raise UsageError(
                f"invalid grid of shape {grid.shape}, or with points outside 0 to 1",
                where="point_grids",
                cure="Give (N, 2): x and y as shares of width and height",
                shape=grid.shape,
            )
    return arrays
