"""MobileSAM against its package, weight for weight."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from torch import Tensor, nn

from samedge.models.checkpoints.batch_norm import fold_batch_norms
from samedge.models.checkpoints.read import Checkpoint
from samedge.models.sam.configs import KNOWN_CONFIGS, SMALL_TINY_VIT, SamConfig, TinyViTConfig
from samedge.models.sam.load import load_model
from samedge.models.sam.registry import build_model
from samedge.models.sam.sam import Sam
from samedge.models.sam.seeded import seeded_state

TOLERANCE = 1e-4


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == torch.float32
    assert theirs.std() > 0.05, "degenerate numbers prove nothing"
    assert (ours - theirs).abs().max() < TOLERANCE


def random_images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def built(config: SamConfig) -> Sam:
    return build_model(Checkpoint(seeded_state(config), "", Path("seeded")), config.encoder.image_size)


class TestFolding:
    def test_gives_the_numbers_of_convolution_and_norm(self) -> None:
        torch.manual_seed(0)
        convolution = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=False)
        norm = nn.BatchNorm2d(8)
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            assert tensor is not None
            nn.init.normal_(tensor)
        assert norm.running_var is not None
        nn.init.uniform_(norm.running_var, 0.2, 3)
        pair = nn.Sequential()
        pair.add_module("c", convolution)
        pair.add_module("bn", norm)
        folded = fold_batch_norms({f"stem.{key}": value for key, value in pair.state_dict().items()})
        assert set(folded) == {"stem.weight", "stem.bias"}
        x = torch.randn(2, 6, 9, 9)
        ours = nn.functional.conv2d(x, folded["stem.weight"], folded["stem.bias"], stride=2, padding=1, groups=2)
        assert (ours - pair.eval()(x)).abs().max() < 1e-5

    def test_leaves_other_weights_alone(self) -> None:
        state = {"a.c.weight": torch.ones(1), "b.bn.weight": torch.ones(2), "neck.0.weight": torch.ones(3)}
        assert fold_batch_norms(state) == state

    def test_changes_nothing_the_second_time(self) -> None:
        once = fold_batch_norms(seeded_state(SMALL_TINY_VIT))
        assert once.keys() == fold_batch_norms(once).keys()
        assert not any(".bn." in key for key in once)


class TestEncoder:
    @pytest.mark.parametrize("count", [1, 3])
    def test_equals_the_reference(self, count: int) -> None:
        theirs = reference.reference_mobile_sam(seeded_state(SMALL_TINY_VIT), SMALL_TINY_VIT)
        images = random_images(count, 128)
        with torch.no_grad():
            wanted = reference.reference_tiny_vit(theirs.image_encoder, images)
        close(built(SMALL_TINY_VIT).encode(images), wanted)

    @settings(max_examples=20)
    @given(
        sixteenths=st.integers(1, 9),
        windows=st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 7)),
        depths=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.just(1)),
        kernel=st.sampled_from([3, 5]),
    )
    def test_equals_the_reference_at_any_size(
        self, sixteenths: int, windows: tuple[int, int, int], depths: tuple[int, ...], kernel: int
    ) -> None:
        encoder = SMALL_TINY_VIT.encoder
        assert isinstance(encoder, TinyViTConfig)
        size = 16 * sixteenths
        config = SamConfig(
            replace(encoder, image_size=size, window_sizes=(0, *windows), depths=depths, local_conv_size=kernel)
        )
        theirs = reference.reference_mobile_sam(seeded_state(config), config)
        images = random_images(2, size)
        with torch.no_grad():
            wanted = reference.reference_tiny_vit(theirs.image_encoder, images)
        close(built(config).encode(images), wanted)

    def test_learns(self) -> None:
        # Folded, but whole: a fine-tune of the folded model gets a gradient everywhere.
        sam = built(SMALL_TINY_VIT).requires_grad_(requires_grad=True)
        torch.autograd.backward(sam.encode(random_images(1, 128)).square().sum())
        for name, weight in sam.image_encoder.named_parameters():
            assert weight.grad is not None, name
            assert torch.isfinite(weight.grad).all(), name

    def test_a_saved_folded_model_loads_again(self) -> None:
        sam = built(SMALL_TINY_VIT)
        again = build_model(Checkpoint(sam.state_dict(), "", Path("folded")), 128)
        images = random_images(1, 128)
        assert torch.equal(again.encode(images), sam.encode(images))


def test_mobile_sam_equals_the_reference_at_full_size() -> None:
    config = KNOWN_CONFIGS["mobile_sam"]
    image = random_images(1, 1024)
    clicks, labels = torch.tensor([[[500.0, 375], [900, 100]]]), torch.tensor([[1, 0]])
    with torch.no_grad():
        theirs = reference.reference_mobile_sam(seeded_state(config), config)
        wanted = theirs.image_encoder(image)
        sparse, dense = theirs.prompt_encoder(points=(clicks, labels), boxes=None, masks=None)
        their_masks, their_ious = theirs.mask_decoder.predict_masks(
            wanted, theirs.prompt_encoder.get_dense_pe(), sparse, dense
        )
    loaded = load_model("seeded:mobile_sam")
    assert (loaded.name, loaded.model.image_size, loaded.model.embedding_size) == ("mobile_sam", 1024, 64)
    embedding = loaded.model.encode(image)
    close(embedding, wanted)
    masks, ious = loaded.model.decode(
        embedding,
        torch.cat([clicks, torch.zeros(1, 1, 2)], dim=1),
        torch.cat([labels, torch.tensor([[-1]])], dim=1),
        torch.zeros(1, 1, 256, 256),
        torch.zeros(1),
    )
    close(masks, their_masks)
    assert (ious - their_ious).abs().max() < TOLERANCE
