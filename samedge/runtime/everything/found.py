"""The result of segment everything: masks as RLE, their attributes, and statistics."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from samedge.errors import UsageError
from samedge.runtime.everything.candidates import Candidate, boxes_of
from samedge.runtime.masks.rle import Rle, UncompressedRle, decode_rle, rle_area, uncompress_rle
from samedge.runtime.results.masks import RleMasks
from samedge.runtime.results.results import Results
from samedge.types import BoolArray, FloatArray, ImageArray

OutputMode: TypeAlias = Literal["binary_mask", "uncompressed_rle", "coco_rle"]


class EverythingRecord(TypedDict):
    """A mask as Meta's ``SamAutomaticMaskGenerator`` returns it; boxes are x, y, width, height in px."""

    segmentation: BoolArray | Rle | UncompressedRle
    area: int
    bbox: list[float]
    predicted_iou: float
    point_coords: list[list[float]]
    stability_score: float
    crop_box: list[int]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of a run.

    Attributes:
        points: Points of all grids: the prompts without any skipping.
        decoder_prompts: Prompted points.
        decoder_calls: Calls of the decoder for them.
        crops_encoded: Crops that went through the encoder.
        masks_scored: Masks with a predicted IoU.
        masks_drawn: Masks drawn at low resolution; the four of a point are drawn together.
        masks_rescored: Masks with sufficient predicted IoU whose stability low resolution does not settle.
        masks_upscaled: Masks drawn at image size, inside their boxes.
        milliseconds: Total time.
        complete: False if the time budget ended the search.
    """

    points: int
    decoder_prompts: int
    decoder_calls: int
    crops_encoded: int
    masks_scored: int
    masks_drawn: int
    masks_rescored: int
    masks_upscaled: int
    milliseconds: float
    complete: bool


@dataclass(frozen=True, eq=False)
class FoundMasks(RleMasks):
    """N masks of one image, by falling predicted IoU; with crops, those of small crops first.

    Attributes:
        rles: The masks in COCO's compressed form.
        image_shape: (height, width) of the image, px.
        boxes: float32 ``[N, 4]``: first and last column and row of each mask, (x1, y1, x2, y2) in px.
        predicted_iou: float32 ``[N]``, IoU of each mask predicted by the model.
        stability_score: float32 ``[N]``, IoU of each mask with itself at a higher and a lower threshold.
        point_coords: float64 ``[N, 2]``: the prompt that found each mask, (x, y) in px.
        crop_box: int ``[N, 4]``: the crop each mask was found in, (x, y, width, height) in px.
        statistics: Statistics of the run.
        speed: Milliseconds for "preprocess", "inference" and "postprocess".
    """

    boxes: FloatArray
    predicted_iou: FloatArray
    stability_score: FloatArray
    point_coords: NDArray[np.float64]
    crop_box: NDArray[np.intp]
    statistics: Statistics
    speed: Mapping[str, float]

    @classmethod
    def of(
        cls,
        candidates: Sequence[Candidate],
        image_shape: tuple[int, int],
        statistics: Statistics,
        speed: Mapping[str, float],
    ) -> FoundMasks:
        """Return candidates as arrays, in their order."""
        return cls(
            rles=tuple(mask.rle for mask in candidates),
            image_shape=image_shape,
            boxes=boxes_of(candidates),
            predicted_iou=np.array([mask.predicted_iou for mask in candidates], np.float32),
            stability_score=np.array([mask.stability for mask in candidates], np.float32),
            point_coords=np.array([mask.point for mask in candidates], np.float64).reshape(-1, 2),
            crop_box=np.array([mask.crop.xywh for mask in candidates], np.intp).reshape(-1, 4),
            statistics=statistics,
            speed=speed,
        )

    def records(self, output_mode: OutputMode = "binary_mask") -> list[EverythingRecord]:
        """Return the masks as Meta's ``SamAutomaticMaskGenerator.generate`` does.

        Args:
            output_mode: "binary_mask" for bool ``[H, W]``, "uncompressed_rle" or "coco_rle".

        Raises:
            UsageError: Another output mode.
        """
        ways = {"binary_mask": decode_rle, "uncompressed_rle": uncompress_rle, "coco_rle": Rle.copy}
        if output_mode not in ways:
            raise UsageError(f"unknown output mode {output_mode!r}", cure=f"Give one of {', '.join(ways)}")
        segmentation: Any = ways[output_mode]
        corners = self.boxes[:, :2]
        boxes = np.concatenate([corners, self.boxes[:, 2:] - corners], axis=1).tolist()
        return [
            EverythingRecord(
                segmentation=segmentation(rle),
                area=rle_area(rle),
                bbox=boxes[at],
                predicted_iou=float(self.predicted_iou[at]),
                point_coords=[self.point_coords[at].tolist()],
                stability_score=float(self.stability_score[at]),
                crop_box=self.crop_box[at].tolist(),
            )
            for at, rle in enumerate(self.rles)
        ]

    def results(self, image: ImageArray, *, path: str | os.PathLike[str] | None = None) -> Results:
        """Return the masks as `Results` of the image, BGR uint8 ``(H, W, 3)``: score = predicted IoU, class = index."""
        index = np.arange(len(self))
        data = np.column_stack([self.boxes, self.predicted_iou, index]).astype(np.float32)
        masks = RleMasks(self.rles, self.image_shape)
        return Results(image, path, boxes=data, masks=masks, speed=self.speed, prompt_index=index)
