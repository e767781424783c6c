"""One training step: encode, a first prompt for every target, then rounds of correction points for some of them.

Each round has its own backward pass, down to the image embeddings; their accumulated gradient then passes through the
encoder once. Memory is therefore limited to one chunk of prompts, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn

from samedge.models.sam.sam import Sam
from tools.train_sam_demo.batches import Batch
from tools.train_sam_demo.losses import (
    IOU_WEIGHT,
    best_of_three,
    edge_loss,
    enlarge,
    grouping_loss,
    mask_loss,
    real_iou,
)
from tools.train_sam_demo.network import normalise
from tools.train_sam_demo.token_decoder import decode_tokens

_FEATURES = 16
_WITHOUT_MASK = 0.3


class Guide(nn.Module):
    """A head used only in training, which predicts edges and the grouping of cells from the encoder's features.

    A prompt trains the encoder on one object; the guide trains it on all of them at once.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, 16 * (_FEATURES + 1), 1)
        self.shuffle = nn.PixelShuffle(4)

    def forward(self, embeddings: Tensor, batch: Batch) -> Tensor:
        """Return the loss of embeddings ``[N, C, g, g]`` on a batch."""
        maps = self.shuffle(self.project(embeddings)).float()
        return grouping_loss(maps[:, 1:], batch.labels) + edge_loss(maps[:, 0], batch.edges)


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of a step.

    Attributes:
        corrections: Fraction of the targets that get correction points, for each round.
        chunk: Number of prompts decoded at once.
        guide_weight: Weight of the `Guide`.
        bfloat16: Compute matrix products in bfloat16.
        compiled: Compile the encoder, which takes a while but saves more. The decoder would gain nothing.
    """

    corrections: tuple[float, ...] = (0.5, 0.25)
    chunk: int = 32
    guide_weight: float = 1.0
    bfloat16: bool = False
    compiled: bool = False

    def encode(self, sam: Sam, images: Tensor) -> Tensor:
        """Return the embeddings of images uint8 ``[N, S, S, 3]``."""
        encode = _compiled(sam.encode) if self.compiled else sam.encode
        embeddings: Tensor = encode(normalise(images))
        return embeddings


@lru_cache(maxsize=1)
def _compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return torch.compile(function, dynamic=False)


@dataclass(slots=True)
class Prompts:
    """The prompts of some targets so far, and the last mask.

    Attributes:
        rows: int64 ``[B]``, the targets.
        coords: float32 ``[B, P, 2]``, (x, y) in px.
        labels: int32 ``[B, P]``: 1, 0, box corners 2 and 3, and -1 for padding at the end of prompts without a box.
        mask: float32 ``[B, 1, g4, g4]``, logits of the previous round.
        has_mask: float32 ``[B]``.
    """

    rows: Tensor
    coords: Tensor
    labels: Tensor
    mask: Tensor
    has_mask: Tensor

    def take(self, rows: Tensor | slice) -> Prompts:
        """Return some of the rows."""
        return Prompts(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(slots=True)
class Tally:
    """Means over a step: of the losses, and of the IoU of token 0 for boxes, first clicks and corrections."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        """Add values ``[n]``."""
        if values.numel():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.detach().sum())
            self.counts[name] = self.counts.get(name, 0) + values.numel()

    def means(self) -> dict[str, float]:
        """Return the mean of each name."""
        return {name: self.sums[name] / self.counts[name] for name in self.sums}


def first_prompts(batch: Batch) -> Prompts:
    """Return a box, or a point and padding, for every target: always two tokens."""
    count, side = len(batch.soft), batch.soft.shape[-1]
    point = torch.stack([batch.points, torch.zeros_like(batch.points)], dim=1)
    boxed = batch.boxed[:, None]
    device = batch.soft.device
    return Prompts(
        rows=torch.arange(count, device=device),
        coords=torch.where(boxed[..., None], batch.boxes, point),
        labels=torch.where(boxed, torch.tensor([2, 3], device=device), torch.tensor([1, -1], device=device)).int(),
        mask=torch.zeros(count, 1, side, side, device=device),
        has_mask=torch.zeros(count, device=device),
    )


@torch.no_grad()
def corrected(prompts: Prompts, logits: Tensor, hard: Tensor, generator: torch.Generator) -> Prompts:
    """Return the prompts with one more point each, drawn from the error region, mostly with the last mask.

    Args:
        prompts: The prompts of the previous round.
        logits: float32 ``[B, g4, g4]``, its masks.
        hard: bool ``[B, H, H]``, the targets.
        generator: Random generator.
    """
    side = hard.shape[-1]
    wrong = (enlarge(logits[:, None], side)[:, 0] > 0) != hard
    # Without errors, any point of the target will do.
    wrong = torch.where(wrong.flatten(1).any(1)[:, None, None], wrong, hard).flatten(1)
    draw = torch.rand(wrong.shape, generator=generator).to(wrong.device)
    place = (draw * wrong).argmax(1)
    label = hard.flatten(1).gather(1, place[:, None]).int()
    step = prompts.mask.shape[-1] * 4 / side
    xy = torch.stack([place % side, place // side], dim=1).float() * step + (step - 1) / 2
    told = (torch.rand(len(place), generator=generator) > _WITHOUT_MASK).float().to(wrong.device)
    return Prompts(
        rows=prompts.rows,
        # New points come first, so that padding stays at the end.
        coords=torch.cat([xy[:, None], prompts.coords], dim=1),
        labels=torch.cat([label, prompts.labels], dim=1),
        mask=logits[:, None].float(),
        has_mask=told,
    )


def encoder_backward(sam: Sam, guide: Guide, batch: Batch, plan: Plan) -> dict[str, float]:
    """Add the gradient of the guide alone, which needs no prompts; return the step's means."""
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=plan.bfloat16):
        helped = guide(plan.encode(sam, batch.images), batch)
    torch.autograd.backward(helped)
    return {"guide": float(helped.detach())}


def step_backward(
    sam: Sam, guide: Guide, batch: Batch, plan: Plan, generator: torch.Generator, guide_weight: float
) -> dict[str, float]:
    """Add the gradient of one step to the parameters; return the step's means.

    Args:
        sam: The model.
        guide: The auxiliary head.
        batch: The step's scenes and targets.
        plan: Settings of the step.
        generator: Random generator, on the CPU.
        guide_weight: Weight of the guide at this step.
    """
    tally = Tally()
    device = batch.images.device.type
    total = len(batch.soft) * (1 + sum(plan.corrections))
    with torch.autocast(device, torch.bfloat16, enabled=plan.bfloat16):
        embeddings = plan.encode(sam, batch.images)
        helped = guide(embeddings, batch)
    tally.add("guide", helped[None])
    leaf = embeddings.detach().float().requires_grad_()

    prompts = first_prompts(batch)
    for turn in range(len(plan.corrections) + 1):
        chunks = [slice(first, first + plan.chunk) for first in range(0, len(prompts.rows), plan.chunk)]
        answers = torch.cat(
            [_decode_chunk(sam, leaf, batch, prompts.take(c), plan, tally, turn, total) for c in chunks]
        )
        if turn < len(plan.corrections):
            keep = torch.randperm(len(prompts.rows), generator=generator)
            keep = keep[: max(1, round(len(batch.soft) * plan.corrections[turn]))].to(leaf.device)
            prompts = prompts.take(keep)
            prompts = corrected(prompts, answers[keep], batch.hard[prompts.rows], generator)

    gathered = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
    torch.autograd.backward([embeddings, guide_weight * helped], [gathered.to(embeddings.dtype), None])
    return tally.means()


def _decode_chunk(
    sam: Sam, leaf: Tensor, batch: Batch, prompts: Prompts, plan: Plan, tally: Tally, turn: int, total: float
) -> Tensor:
    """Decode some prompts, add their gradient, and return the masks to correct, ``[B, g4, g4]``."""
    per_image = len(batch.soft) // len(batch.images)
    with torch.autocast(leaf.device.type, torch.bfloat16, enabled=plan.bfloat16):
        sparse = sam.prompt_encoder.embed_points(prompts.coords, prompts.labels)
        rows = prompts.rows // per_image
        if turn:
            images = leaf.index_select(0, rows) + sam.prompt_encoder.embed_masks(prompts.mask, prompts.has_mask)
            rows = torch.arange(len(rows), device=rows.device)
        else:  # without masks, all prompts of an image share its dense prompt
            images = leaf + sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        logits, predicted = decode_tokens(sam.mask_decoder, images, rows, sam.prompt_encoder.dense_pe(), sparse)
    logits, predicted = logits.float(), predicted.float()
    iou = real_iou(logits, batch.hard[prompts.rows])
    losses = mask_loss(logits, batch.soft[prompts.rows])
    boxed = batch.boxed[prompts.rows]
    # A first click is ambiguous: the three masks share the work, and mask 0 is the best single mask.
    clear = boxed | (turn > 0)
    losses_single, losses_best = losses[:, 0], best_of_three(losses)
    masks = torch.where(clear, losses_single + 0.4 * losses_best, 0.4 * losses_single + losses_best)
    quality = (predicted - iou).square().sum(1)
    torch.autograd.backward((masks + IOU_WEIGHT * quality).sum() / total)

    tally.add("mask", losses_single)
    tally.add("quality", quality)
    tally.add("iou_fix", iou[:, 0] if turn else iou[:0, 0])
    if not turn:
        tally.add("iou_box", iou[boxed, 0])
        tally.add("iou_click", iou[~boxed, 0])
        tally.add("iou_best", iou[~boxed, 1:].amax(1))
    answer = predicted.detach()[:, 1:].argmax(1) + 1
    answer = torch.where(clear, torch.zeros_like(answer), answer)
    return logits.detach()[torch.arange(len(answer), device=answer.device), answer]
