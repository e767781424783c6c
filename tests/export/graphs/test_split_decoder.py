"""The split decoder gives the numbers of Meta's, and costs half."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from samedge.export.graphs.split_decoder import DecoderContext, DecoderMasks, DecoderPrompts
from samedge.models.sam.build import empty_sam
from samedge.models.sam.configs import SMALL_VIT
from samedge.models.sam.load import load_model
from samedge.models.sam.sam import Sam
from samedge.models.sam.seeded import seeded_state

GRID = 8
EMBEDDING = torch.randn(1, 256, GRID, GRID, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def ours() -> Sam:
    sam = empty_sam(SMALL_VIT)
    sam.load_state_dict(seeded_state(SMALL_VIT))
    return sam.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return reference.reference_sam(seeded_state(SMALL_VIT), SMALL_VIT).requires_grad_(requires_grad=False)


def split_decode(sam: Sam, embedding: Tensor, *prompt: Tensor, contexts: int | None = None) -> tuple[Tensor, Tensor]:
    coords, labels, masks, has_mask = prompt
    image = DecoderContext(sam)(embedding, masks[:contexts], has_mask[:contexts])
    ious, weights, attended = DecoderPrompts(sam)(*image, coords, labels)
    return DecoderMasks(sam)(attended, weights), ious


@settings(deadline=None, max_examples=25)
@given(prompts=st.integers(1, 4), points=st.integers(0, 9), masked=st.booleans(), seed=st.integers(0, 1 << 20))
def test_it_is_meta_s_decoder(ours: Sam, theirs: Any, prompts: int, points: int, masked: bool, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    coords = torch.rand(prompts, points, 2, generator=random) * 128
    labels = torch.randint(0, 2, (prompts, points), generator=random)
    masks = torch.randn(prompts, 1, 4 * GRID, 4 * GRID, generator=random) * 6
    has_mask = torch.full((prompts,), float(masked))
    low_res, ious = split_decode(
        ours, EMBEDDING, coords, labels.to(torch.int32), masks, has_mask, contexts=None if masked else 1
    )
    sparse, dense = theirs.prompt_encoder(
        points=None if points == 0 else (coords, labels), boxes=None, masks=masks if masked else None
    )
    # Without a box Meta's encoder adds a padding point, which its graph does not.
    sparse = sparse[:, :-1] if points else torch.zeros(prompts, 0, 256)
    if len(dense) == 1:
        dense = dense.expand(prompts, -1, -1, -1)
    want_low, want_ious = theirs.mask_decoder.predict_masks(
        image_embeddings=EMBEDDING,
        image_pe=theirs.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )
    assert want_low.std() > 0.1
    assert (low_res - want_low).abs().max() <= 1e-5 * max(1.0, float(want_low.abs().max()))
    assert (ious - want_ious).abs().max() <= 1e-5


def test_at_true_size_it_costs_half_a_prompt() -> None:
    sam = load_model("seeded:mobile_sam").model.requires_grad_(requires_grad=False)
    prompt = (
        torch.rand(1, 2, 2),
        torch.tensor([[1, -1]], dtype=torch.int32),
        torch.zeros(1, 1, 256, 256),
        torch.zeros(1),
    )
    embedding = torch.zeros(1, 256, 64, 64)
    with FlopCounterMode(display=False) as whole:
        sam.decode(embedding, *prompt)
    image = DecoderContext(sam)(embedding, *prompt[2:])
    with FlopCounterMode(display=False) as context:
        DecoderContext(sam)(embedding, *prompt[2:])
    with FlopCounterMode(display=False) as prompts:
        _, weights, attended = DecoderPrompts(sam)(*image, *prompt[:2])
    with FlopCounterMode(display=False) as masks:
        DecoderMasks(sam)(attended, weights)
    each = prompts.get_total_flops() + masks.get_total_flops()
    assert each <= 1.76e9
    assert whole.get_total_flops() >= 3.5e9
    assert context.get_total_flops() <= 0.9e9
    assert masks.get_total_flops() / each > 0.45  # what a mask that is dropped by its predicted IoU saves
