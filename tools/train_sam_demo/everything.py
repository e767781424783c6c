"""Minimal segment everything, to measure recall: a grid of points, a filter by score, and mask NMS.

It has neither crops nor clean-up, and works at the decoder's resolution. It measures the fraction of the objects that
any generator could find.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from samedge.models.sam.sam import Sam
from tools.train_sam_demo.losses import enlarge
from tools.train_sam_demo.network import normalise
from tools.train_sam_demo.scenes import Scene

_CHUNK = 32
_STABLE_OFFSET = 1.0


@torch.no_grad()
def everything(sam: Sam, drawn: Scene, side: int, *, score: float, stability: float, overlap: float) -> Tensor:
    """Return masks of a scene, best first: bool ``[M, S, S]``.

    Args:
        sam: The model.
        drawn: The scene.
        side: Points along each axis.
        score: Minimum predicted IoU of a mask.
        stability: Minimum IoU between a mask's versions at thresholds one above and one below 0.
        overlap: Masks with a greater IoU with a better one are dropped.
    """
    size, low = drawn.image.shape[0], 4 * sam.embedding_size
    embedding = sam.encode(normalise(torch.from_numpy(drawn.image)[None]))
    axis = (torch.arange(side) + 0.5) * size / side
    points = torch.stack([p.flatten() for p in torch.meshgrid(axis, axis, indexing="xy")], dim=1)
    kept_logits, kept_scores = [], []
    for chunk in torch.split(points, _CHUNK):
        count = len(chunk)
        coords = torch.stack([chunk, torch.zeros_like(chunk)], dim=1)
        labels = torch.tensor([1, -1], dtype=torch.int32).expand(count, 2)
        masks, ious = sam.decode(embedding, coords, labels, torch.zeros(count, 1, low, low), torch.zeros(count))
        masks, ious = masks[:, 1:].flatten(0, 1), ious[:, 1:].flatten()
        inner = (masks > _STABLE_OFFSET).flatten(1).sum(1)
        outer = (masks > -_STABLE_OFFSET).flatten(1).sum(1)
        good = (ious >= score) & (inner >= stability * outer) & (inner > 0)
        kept_logits.append(masks[good])
        kept_scores.append(ious[good])
    logits, scores = torch.cat(kept_logits), torch.cat(kept_scores)
    order = scores.argsort(descending=True)
    chosen = suppress((logits[order] > 0).flatten(1).float(), overlap)
    if not chosen:  # nothing is good enough
        return torch.zeros(0, size, size, dtype=torch.bool)
    return enlarge(logits[order][chosen][None], size)[0] > 0


def suppress(masks: Tensor, overlap: float) -> list[int]:
    """Return the rows of masks float32 ``[M, P]``, best first, whose IoU with every kept one is small enough."""
    inter = masks @ masks.T
    area = masks.sum(1)
    iou = inter / (area[:, None] + area[None] - inter).clamp(min=1)
    kept: list[int] = []
    for row in range(len(masks)):
        if not kept or float(iou[row, kept].max()) <= overlap:
            kept.append(row)
    return kept


def best_ious(found: Tensor, drawn: Scene) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return, for each object of a scene, the IoU of the best matching mask."""
    target = torch.from_numpy(drawn.masks).flatten(1).float()
    if not len(found):
        return np.zeros(len(target))
    guess = found.flatten(1).float()
    inter = target @ guess.T
    union = target.sum(1)[:, None] + guess.sum(1)[None] - inter
    return np.asarray((inter / union).amax(1).numpy(), np.float64)
