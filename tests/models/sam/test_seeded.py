"""Seeded weights: true to the reference's keys, the same each time, and not degenerate."""

from __future__ import annotations

import pytest
import torch
from support import reference

from samedge.errors import UsageError
from samedge.models.sam.configs import KNOWN_CONFIGS, SMALL_TINY_VIT, SMALL_VIT, SamConfig, TinyViTConfig
from samedge.models.sam.load import load_model
from samedge.models.sam.seeded import seeded_state


@pytest.mark.parametrize("config", [SMALL_VIT, SMALL_TINY_VIT], ids=["vit", "tiny_vit"])
def test_keys_are_those_of_the_reference(config: SamConfig) -> None:
    tiny = isinstance(config.encoder, TinyViTConfig)
    state = seeded_state(config)
    build = reference.reference_mobile_sam if tiny else reference.reference_sam
    assert set(build(state, config).state_dict()) == set(state)  # and it loads them strictly


def test_the_same_seed_gives_the_same_numbers() -> None:
    once, again, other = seeded_state(SMALL_VIT), seeded_state("sam_vit_tiny"), seeded_state(SMALL_VIT, seed=1)
    assert once.keys() == again.keys() == other.keys()
    for key, value in once.items():
        assert torch.equal(value, again[key])
        assert not torch.equal(value, other[key])


def test_no_weight_is_constant() -> None:
    for key, value in seeded_state(SMALL_TINY_VIT).items():
        if value.is_floating_point() and value.numel() > 1:
            assert value.std() > 1e-4, key
            assert value.abs().max() > 1e-2, key


@pytest.mark.parametrize("name", ["sam_vit_tiny", "tiny_vit_tiny"])
def test_activations_and_outputs_are_like_a_trained_models(name: str) -> None:
    sam = load_model(f"seeded:{name}").model
    size, grid = sam.image_size, sam.embedding_size
    image = torch.nn.functional.interpolate(torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(1)), size)
    embedding = sam.encode(image)
    assert 0.5 < embedding.std() < 2
    assert embedding.std((2, 3)).mean() > 0.2, "the embedding says nothing about where"
    coords = torch.tensor([[[0.2, 0.3]], [[0.7, 0.6]]]) * size
    masks, ious = sam.decode(
        embedding, coords, torch.ones(2, 1, dtype=torch.int32), torch.zeros(2, 1, 4 * grid, 4 * grid), torch.zeros(2)
    )
    share = (masks > 0).float().mean((2, 3))
    assert ((share > 0.1) & (share < 0.9)).all()
    assert ((ious > 0) & (ious < 1)).all()
    assert ((masks[0] > 0) != (masks[1] > 0)).float().mean() > 0.01, "the prompt changes nothing"


def test_unknown_name_is_an_error_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="sam_vit_b") as caught:
        seeded_state("sam_vit_xxl")
    assert all(name in str(caught.value) for name in KNOWN_CONFIGS)
