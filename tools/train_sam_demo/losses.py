"""Losses of SAM's recipe (arXiv:2304.02643, appendix A): focal and dice on masks, squared error on predicted IoUs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FOCAL_WEIGHT = 20.0
DICE_WEIGHT = 1.0
IOU_WEIGHT = 1.0
_ALL_TOKENS = 0.05


def mask_loss(logits: Tensor, soft: Tensor) -> Tensor:
    """Return 20 focal + dice of each mask, ``[B, M]``.

    Targets are covered fractions, not bits: for a cell crossed by an edge, the right logit is an intermediate one, and
    masks are finer than their grid. The focal loss is the one for soft targets (arXiv:2006.04388, equation 6).

    Args:
        logits: float32 ``[B, M, h, w]``.
        soft: float32 ``[B, h, w]`` in 0..1.
    """
    target = soft[:, None].flatten(2)
    logits = logits.flatten(2)
    share = torch.sigmoid(logits)
    entropy = functional.softplus(logits) - logits * target
    focal = ((share - target).square() * entropy).mean(2)
    dice = 1 - (2 * (share * target).sum(2) + 1) / (share.sum(2) + target.sum(2) + 1)
    return FOCAL_WEIGHT * focal + DICE_WEIGHT * dice


def best_of_three(losses: Tensor) -> Tensor:
    """Return the loss of the best ambiguity mask, plus a little of all three to keep tokens alive, ``[B]``.

    Args:
        losses: float32 ``[B, 4]``; column 0, the mask for unambiguous prompts, is ignored.
    """
    three = losses[:, 1:]
    return (1 - _ALL_TOKENS) * three.amin(1) + _ALL_TOKENS * three.mean(1)


@torch.no_grad()
def real_iou(logits: Tensor, hard: Tensor) -> Tensor:
    """Return the IoU of each mask at the resolution of the targets, ``[B, M]``.

    Args:
        logits: float32 ``[B, M, h, w]``.
        hard: bool ``[B, H, W]``.
    """
    mask = enlarge(logits, hard.shape[-1]) > 0
    target = hard[:, None]
    inter = (mask & target).flatten(2).sum(2, dtype=torch.float32)
    union = (mask | target).flatten(2).sum(2, dtype=torch.float32)
    return inter / union.clamp(min=1)


def enlarge(logits: Tensor, side: int) -> Tensor:
    """Enlarge low-resolution logits ``[B, M, h, w]`` to side x side."""
    return functional.interpolate(logits.float(), (side, side), mode="bilinear", align_corners=False)


def grouping_loss(features: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of identifying each cell's object from its features; an auxiliary loss for the encoder.

    Each object is the mean of its cells, and a cell should be nearer to its own object than to any other (prototypes as
    in arXiv:1703.05175, taken from the image itself). All objects have the same weight, however small.

    Args:
        features: float32 ``[N, C, h, w]``.
        labels: int64 ``[N, h, w]``, the object of each cell.
    """
    pixels = features.flatten(2).transpose(1, 2)
    member = functional.one_hot(labels.flatten(1)).transpose(1, 2).to(pixels.dtype)
    count = member.sum(2)
    centres = member @ pixels / count.clamp(min=1)[..., None]
    far = pixels.square().sum(2)[:, None] + centres.square().sum(2)[..., None] - 2 * centres @ pixels.transpose(1, 2)
    far = far.masked_fill((count == 0)[..., None], torch.inf)
    loss = functional.cross_entropy(-far, labels.flatten(1), reduction="none")
    each = (member @ loss[..., None])[..., 0] / count.clamp(min=1)
    return (each.sum(1) / (count > 0).sum(1)).mean()


def edge_loss(logits: Tensor, edges: Tensor) -> Tensor:
    """Return the loss of detecting edges between objects, both ``[N, h, w]``; an auxiliary loss for the encoder."""
    return functional.binary_cross_entropy_with_logits(logits, edges, pos_weight=logits.new_tensor(3.0))
