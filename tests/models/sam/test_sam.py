"""The ViT family against Meta's package, weight for weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from torch import Tensor

from samedge.models.sam.attention import RelPosAttention
from samedge.models.sam.build import empty_sam
from samedge.models.sam.configs import KNOWN_CONFIGS, SMALL_VIT, SamConfig, ViTConfig, vit_config
from samedge.models.sam.encoders import vit as image_encoder
from samedge.models.sam.sam import Sam
from samedge.models.sam.seeded import seeded_state

TOLERANCE = 1e-4
BATCH = 3


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == torch.float32
    assert theirs.std() > 0.05, "degenerate numbers prove nothing"
    assert (ours - theirs).abs().max() < TOLERANCE


def random_images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def loaded(config: SamConfig, state: Mapping[str, Tensor] | None = None) -> Sam:
    sam = empty_sam(config)
    sam.load_state_dict(state or seeded_state(config))
    return sam.requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def ours() -> Sam:
    return loaded(SMALL_VIT)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return reference.reference_sam(seeded_state(SMALL_VIT), SMALL_VIT).requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def embedding(theirs: Any) -> Tensor:
    out: Tensor = theirs.image_encoder(random_images(1, 128))
    return out


class TestEncoder:
    @pytest.mark.parametrize("count", [1, 3])
    def test_equals_the_reference(self, ours: Sam, theirs: Any, count: int) -> None:
        images = random_images(count, 128)
        close(ours.encode(images), theirs.image_encoder(images))

    def test_equals_timm(self, ours: Sam) -> None:
        timm = reference.timm().models.vision_transformer_sam
        encoder = SMALL_VIT.encoder
        assert isinstance(encoder, ViTConfig)
        independent = timm.VisionTransformerSAM(
            img_size=encoder.image_size,
            patch_size=encoder.patch_size,
            embed_dim=encoder.embed_dim,
            depth=encoder.depth,
            num_heads=encoder.num_heads,
            window_size=3,
            global_attn_indexes=(1, 3),
            use_rel_pos=True,
            neck_chans=encoder.out_chans,
            num_classes=0,
        ).eval()
        state = timm.checkpoint_filter_fn(seeded_state(SMALL_VIT), independent)
        independent.load_state_dict(state)
        images = random_images(2, 128)
        with torch.no_grad():
            close(ours.encode(images), independent.forward_features(images))

    def test_chunked_attention_equals_the_reference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # 20 x 20 tokens in chunks of rows, of which the last is a smaller one.
        monkeypatch.setattr(image_encoder, "CHUNK_ABOVE_TOKENS", 16)
        config = SamConfig(
            vit_config(embed_dim=48, depth=2, num_heads=6, global_blocks=(1,), image_size=320, window_size=7)
        )
        sam = loaded(config)
        attention = sam.image_encoder.get_submodule("blocks.1.attn")
        assert isinstance(attention, RelPosAttention)
        assert 0 < 20 % attention.chunk_rows < 20
        images = random_images(2, 320)
        with torch.no_grad():
            theirs = reference.reference_sam(seeded_state(config), config).image_encoder(images)
        close(sam.encode(images), theirs)

    @settings(max_examples=25)
    @given(
        grid=st.integers(1, 10),
        patch=st.sampled_from([8, 16]),
        window=st.integers(1, 11),
        depth=st.integers(1, 3),
        heads=st.sampled_from([1, 2, 4]),
        global_last=st.booleans(),
    )
    def test_equals_the_reference_at_any_size(
        self, grid: int, patch: int, window: int, depth: int, heads: int, global_last: bool
    ) -> None:
        config = SamConfig(
            replace(
                vit_config(
                    embed_dim=32,
                    depth=depth,
                    num_heads=heads,
                    global_blocks=(depth - 1,) if global_last else (),
                    image_size=grid * patch,
                    window_size=window,
                ),
                patch_size=patch,
                mlp_dim=48,
            )
        )
        images = random_images(2, grid * patch)
        with torch.no_grad():
            theirs = reference.reference_sam(seeded_state(config), config).image_encoder(images)
        close(loaded(config).encode(images), theirs)


def points(count: int, kinds: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    coords = torch.rand(BATCH, len(kinds), 2, generator=generator) * 140 - 6  # some lie outside of the image
    return coords, torch.tensor(kinds).expand(BATCH, -1)


def boxes() -> Tensor:
    generator = torch.Generator().manual_seed(9)
    corner = torch.rand(BATCH, 2, generator=generator) * 60
    return torch.cat([corner, corner + 5 + torch.rand(BATCH, 2, generator=generator) * 60], dim=1)


def low_res_masks() -> Tensor:
    return torch.randn(BATCH, 1, 32, 32, generator=torch.Generator().manual_seed(5)) * 4


Prompt = tuple[tuple[Tensor, Tensor] | None, Tensor | None, Tensor | None]
PROMPTS: dict[str, Prompt] = {
    "point": (points(1, [1]), None, None),
    "negative point": (points(1, [0]), None, None),
    "several points": (points(5, [1, 1, 1, 1, 1]), None, None),
    "several points with negatives": (points(4, [1, 0, 0, 1]), None, None),
    "box": (None, boxes(), None),
    "box and point": (points(1, [1]), boxes(), None),
    "box and points with negatives": (points(3, [0, 1, 0]), boxes(), None),
    "mask": (None, None, low_res_masks()),
    "mask and point": (points(1, [1]), None, low_res_masks()),
    "mask and points with negatives": (points(3, [1, 0, 1]), None, low_res_masks()),
    "mask and box": (None, boxes(), low_res_masks()),
    "mask, box and points": (points(2, [1, 0]), boxes(), low_res_masks()),
}


def as_one_tensor(prompt: Prompt) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A prompt as the decoder's graph takes it: the reference pads points that come without a box."""
    clicked, box, mask = prompt
    coords, labels = torch.zeros(BATCH, 0, 2), torch.zeros(BATCH, 0, dtype=torch.int64)
    if clicked is not None:
        coords, labels = clicked
    if box is not None:
        coords = torch.cat([coords, box.reshape(-1, 2, 2)], dim=1)
        labels = torch.cat([labels, torch.tensor([2, 3]).expand(BATCH, -1)], dim=1)
    elif clicked is not None:
        coords = torch.cat([coords, torch.zeros(BATCH, 1, 2)], dim=1)
        labels = torch.cat([labels, torch.full((BATCH, 1), -1)], dim=1)
    if mask is None:
        return coords, labels.to(torch.int32), torch.zeros(BATCH, 1, 32, 32), torch.zeros(BATCH)
    return coords, labels.to(torch.int32), mask, torch.ones(BATCH)


class TestDecoder:
    @pytest.mark.parametrize("multimask", [False, True])
    @pytest.mark.parametrize("name", list(PROMPTS))
    def test_equals_the_reference(self, ours: Sam, theirs: Any, embedding: Tensor, name: str, multimask: bool) -> None:
        clicked, box, mask = PROMPTS[name]
        sparse, dense = theirs.prompt_encoder(points=clicked, boxes=box, masks=mask)
        their_masks, their_ious = theirs.mask_decoder(
            image_embeddings=embedding,
            image_pe=theirs.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        masks, ious = ours.decode(embedding, *as_one_tensor(PROMPTS[name]))
        assert masks.shape == (BATCH, 4, 32, 32)
        chosen = slice(1, None) if multimask else slice(0, 1)
        close(masks[:, chosen], their_masks)
        assert (ious[:, chosen] - their_ious).abs().max() < TOLERANCE

    def test_labels_may_be_of_any_dtype(self, ours: Sam, embedding: Tensor) -> None:
        coords, labels, mask, has_mask = as_one_tensor(PROMPTS["box and points with negatives"])
        wanted = ours.decode(embedding, coords, labels, mask, has_mask)[0]
        for dtype in (torch.int64, torch.float32):
            assert torch.equal(ours.decode(embedding, coords, labels.to(dtype), mask, has_mask)[0], wanted)

    def test_a_batch_is_as_good_as_one_by_one(self, ours: Sam, embedding: Tensor) -> None:
        whole = as_one_tensor(PROMPTS["mask, box and points"])
        masks, ious = ours.decode(embedding, *whole)
        for i in range(BATCH):
            one_mask, one_iou = ours.decode(embedding, *(part[i : i + 1] for part in whole))
            assert (one_mask - masks[i : i + 1]).abs().max() < TOLERANCE
            assert (one_iou - ious[i : i + 1]).abs().max() < TOLERANCE

    def test_prompts_with_and_without_masks_mix(self, ours: Sam, embedding: Tensor) -> None:
        coords, labels, mask, _ = as_one_tensor(PROMPTS["mask and point"])
        masks, _ = ours.decode(embedding, coords, labels, mask, torch.tensor([1.0, 0.0, 1.0]))
        without, _ = ours.decode(embedding, coords, labels, torch.zeros_like(mask), torch.zeros(BATCH))
        with_, _ = ours.decode(embedding, coords, labels, mask, torch.ones(BATCH))
        assert (masks[1] - without[1]).abs().max() < TOLERANCE
        assert (masks[[0, 2]] - with_[[0, 2]]).abs().max() < TOLERANCE
        assert (without - with_).abs().max() > 0.01

    @settings(max_examples=25)
    @given(shape=st.tuples(st.integers(1, 4), st.integers(1, 6)), seed=st.integers(0, 2**31), padding=st.integers(0, 2))
    def test_equals_the_reference_for_any_points(
        self, ours: Sam, theirs: Any, embedding: Tensor, shape: tuple[int, int], seed: int, padding: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        coords = torch.rand(*shape, 2, generator=generator) * 300 - 80
        labels = torch.randint(0, 2, shape, generator=generator)
        coords = torch.cat([coords, torch.zeros(shape[0], padding, 2)], dim=1)
        labels = torch.cat([labels, torch.full((shape[0], padding), -1)], dim=1)
        sparse, dense = theirs.prompt_encoder(points=(coords, labels), boxes=None, masks=None)
        their_masks, their_ious = theirs.mask_decoder.predict_masks(
            embedding, theirs.prompt_encoder.get_dense_pe(), sparse, dense
        )
        pad = torch.zeros(shape[0], 1, 2), torch.full((shape[0], 1), -1)
        masks, ious = ours.decode(
            embedding,
            torch.cat([coords, pad[0]], dim=1),
            torch.cat([labels, pad[1]], dim=1),
            torch.zeros(shape[0], 1, 32, 32),
            torch.zeros(shape[0]),
        )
        close(masks, their_masks)
        assert (ious - their_ious).abs().max() < TOLERANCE


@pytest.mark.parametrize("side", [256, pytest.param(1024, marks=pytest.mark.full_size)])
def test_vit_b_equals_the_reference(side: int) -> None:
    encoder = KNOWN_CONFIGS["sam_vit_b"].encoder
    assert isinstance(encoder, ViTConfig)
    config = SamConfig(replace(encoder, image_size=side))
    state = seeded_state(config)
    image = random_images(1, side)
    box = torch.tensor([[100.0, 200, 700, 650]]) * side / 1024
    with torch.no_grad():
        theirs = reference.reference_sam(state, config)
        their_embedding = theirs.image_encoder(image)
        sparse, dense = theirs.prompt_encoder(points=None, boxes=box, masks=None)
        their_masks, their_ious = theirs.mask_decoder.predict_masks(
            their_embedding, theirs.prompt_encoder.get_dense_pe(), sparse, dense
        )
    sam = loaded(config, state)
    embedding = sam.encode(image)
    close(embedding, their_embedding)
    no_mask = torch.zeros(1, 1, side // 4, side // 4)
    masks, ious = sam.decode(embedding, box.reshape(1, 2, 2), torch.tensor([[2, 3]]), no_mask, torch.zeros(1))
    close(masks, their_masks)
    assert (ious - their_ious).abs().max() < TOLERANCE
