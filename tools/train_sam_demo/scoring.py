"""Scores of a model on scenes: boxes, one click, three clicks, and the accuracy of its predicted IoU.

Clicks follow the paper's protocol: the first one is the innermost point of the object, each further one the innermost
point of the larger error region, with the last mask as an additional prompt. All IoUs are at the size of the image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samedge.models.sam.sam import Sam
from tools.train_sam_demo.batches import tight_box
from tools.train_sam_demo.losses import enlarge
from tools.train_sam_demo.network import normalise
from tools.train_sam_demo.scenes import Scene

MEASURES = ("box", "click_token0", "click_best_iou", "click_best_score", "three_clicks")
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class Target:
    """The IoUs of one object, by measure, with its size and shape.

    Attributes:
        family: Its shape family.
        part: True if it is part of another object.
        share: The fraction of the image that it covers.
        iou: IoU by measure.
        predicted: The model's predicted IoUs, for ``box``, ``click_token0`` and ``click_best_score``.
    """

    family: str
    part: bool
    share: float
    iou: dict[str, float]
    predicted: dict[str, float]

    @property
    def size(self) -> str:
        """COCO's sizes, at 256 px: below 32 x 32 px, below 96 x 96 px, and larger."""
        return "small" if self.share < 1 / 64 else "medium" if self.share < 9 / 64 else "large"


def innermost(region: NDArray[np.bool_]) -> tuple[NDArray[np.float32], float]:
    """Return (x, y) of a region's pixel farthest from its edge, and that distance in px."""
    depth = cv2.distanceTransform(np.pad(region, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), region.shape[1])
    return np.array([x, y], np.float32), float(depth.max())


def next_click(mask: NDArray[np.bool_], target: NDArray[np.bool_]) -> tuple[NDArray[np.float32], int]:
    """Return the correcting point of a mask, (x, y), and its label."""
    missing, missing_depth = innermost(target & ~mask)
    surplus, surplus_depth = innermost(mask & ~target)
    if max(missing_depth, surplus_depth) == 0:
        return innermost(target)[0], 1
    return (missing, 1) if missing_depth >= surplus_depth else (surplus, 0)


def ious(masks: Tensor, target: Tensor) -> Tensor:
    """Return the IoU of bool masks ``[B, M, H, W]`` with targets ``[B, H, W]``: ``[B, M]``."""
    inter = (masks & target[:, None]).flatten(2).sum(2)
    union = (masks | target[:, None]).flatten(2).sum(2)
    return inter / union.clamp(min=1)


@torch.no_grad()
def score(sam: Sam, scenes: Iterable[Scene]) -> list[Target]:
    """Return the scores of every object of some scenes of the model's input size."""
    device = next(sam.parameters()).device
    out: list[Target] = []
    for drawn in scenes:
        embedding = sam.encode(normalise(torch.from_numpy(drawn.image)[None].to(device)))
        for first in range(0, len(drawn.masks), _CHUNK):
            out += _score_objects(sam, embedding, drawn, slice(first, first + _CHUNK))
    return out


def _score_objects(sam: Sam, embedding: Tensor, drawn: Scene, rows: slice) -> list[Target]:
    device, masks = embedding.device, drawn.masks[rows]
    target = torch.from_numpy(masks).to(device)
    count, side, low = len(masks), masks.shape[1], 4 * sam.embedding_size
    no_mask = (torch.zeros(count, 1, low, low, device=device), torch.zeros(count, device=device))

    def ask(points: list[NDArray[np.float32]], labels: list[NDArray[np.int32]], mask: tuple[Tensor, Tensor]) -> _Answer:
        coords = torch.from_numpy(np.stack(points, 1)).to(device)
        kinds = torch.from_numpy(np.stack(labels, 1)).to(device)
        logits, predicted = sam.decode(embedding, coords, kinds, *mask)
        return _Answer(logits, predicted, ious(enlarge(logits, side) > 0, target))

    every = np.arange(count)
    corners = np.stack([tight_box(m) for m in masks])
    box = ask([corners[:, 0], corners[:, 1]], [np.full(count, 2, np.int32), np.full(count, 3, np.int32)], no_mask)

    padding = (np.zeros((count, 2), np.float32), np.full(count, -1, np.int32))
    points, labels = [np.stack([innermost(m)[0] for m in masks])], [np.ones(count, np.int32)]
    click = ask([*points, padding[0]], [*labels, padding[1]], no_mask)
    chosen = click.predicted[:, 1:].argmax(1) + 1
    answer, taken = click, chosen
    for _ in range(2):
        low_res = answer.logits[every, taken]
        current = (enlarge(low_res[:, None], side)[:, 0] > 0).cpu().numpy()
        clicks = [next_click(*pair) for pair in zip(current, masks, strict=True)]
        points.append(np.stack([point for point, _ in clicks]))
        labels.append(np.array([label for _, label in clicks], np.int32))
        mask_prompt = (low_res[:, None], torch.ones(count, device=device))
        answer = ask([*points, padding[0]], [*labels, padding[1]], mask_prompt)
        taken = torch.zeros_like(chosen)

    columns = {
        "box": box.iou[:, 0],
        "click_token0": click.iou[:, 0],
        "click_best_iou": click.iou[:, 1:].amax(1),
        "click_best_score": click.iou[every, chosen],
        "three_clicks": answer.iou[:, 0],
    }
    said = {
        "box": box.predicted[:, 0],
        "click_token0": click.predicted[:, 0],
        "click_best_score": click.predicted[every, chosen],
    }
    return [
        Target(
            family=drawn.families[rows][i],
            part=bool(drawn.parents[rows][i] >= 0),
            share=float(masks[i].mean()),
            iou={name: float(column[i]) for name, column in columns.items()},
            predicted={name: float(column[i]) for name, column in said.items()},
        )
        for i in range(count)
    ]


@dataclass(frozen=True, slots=True)
class _Answer:
    """Low-resolution logits ``[B, 4, h, w]``, predicted IoUs ``[B, 4]`` and real ones ``[B, 4]``."""

    logits: Tensor
    predicted: Tensor
    iou: Tensor


def mean_ious(targets: list[Target]) -> dict[str, float]:
    """Return the mean IoU of each measure."""
    return {name: float(np.mean([t.iou[name] for t in targets])) for name in MEASURES}
