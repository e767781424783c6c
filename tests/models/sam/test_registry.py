"""Which model a checkpoint is of, from keys and shapes alone."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from torch import Tensor
from torch.nn import functional as F

from samedge.errors import CheckpointError, UnknownArchitectureError, UsageError
from samedge.models.checkpoints.read import Checkpoint
from samedge.models.sam.build import empty_sam, weight_shapes
from samedge.models.sam.configs import (
    KNOWN_CONFIGS,
    SMALL_TINY_VIT,
    SMALL_VIT,
    DecoderConfig,
    SamConfig,
    TinyViTConfig,
    ViTConfig,
    vit_config,
)
from samedge.models.sam.encoders.vit_family import window_sizes
from samedge.models.sam.registry import assemble, build_model, recognise
from samedge.models.sam.seeded import seeded_state


@cache
def _state(config: SamConfig) -> dict[str, Tensor]:
    return seeded_state(config)


def checkpoint(state: dict[str, Tensor], **metadata: str) -> Checkpoint:
    return Checkpoint(state, "", Path("some_name.pt"), metadata)


def small(config: SamConfig = SMALL_VIT, **changes: Tensor) -> dict[str, Tensor]:
    return {**_state(config), **{key.replace("__", "."): value for key, value in changes.items()}}


def shapes_only(config: SamConfig) -> dict[str, Tensor]:
    """Weights of full size that take no memory: enough to be recognised."""
    zero = torch.zeros(1)
    return {key: zero.expand(shape) for key, shape in weight_shapes(config).items()}


class TestRecognition:
    @pytest.mark.parametrize("name", ["sam_vit_b", "sam_vit_l", "sam_vit_h", "mobile_sam"])
    def test_known_models(self, name: str) -> None:
        found = recognise(checkpoint(shapes_only(KNOWN_CONFIGS[name])))
        assert found.name == name
        assert found.config == KNOWN_CONFIGS[name]

    def test_the_keys_of_the_genuine_mobile_sam(self) -> None:
        assert recognise(checkpoint(_state(KNOWN_CONFIGS["mobile_sam"]))).name == "mobile_sam"

    @settings(max_examples=30)
    @given(
        grid=st.integers(2, 20),
        patch=st.sampled_from([8, 14, 16]),
        heads=st.sampled_from([1, 2, 4]),
        windows=st.lists(st.integers(1, 19), min_size=1, max_size=5),
        decoder=st.builds(
            DecoderConfig,
            dim=st.sampled_from([64, 128]),
            mask_in_chans=st.sampled_from([8, 16]),
            depth=st.integers(1, 3),
            mlp_dim=st.sampled_from([32, 48]),
            internal_dim=st.sampled_from([32, 64]),
            num_mask_tokens=st.integers(1, 5),
            iou_head_depth=st.integers(2, 4),
            iou_head_hidden_dim=st.sampled_from([16, 24]),
        ),
    )
    def test_any_vit(self, grid: int, patch: int, heads: int, windows: list[int], decoder: DecoderConfig) -> None:
        encoder = ViTConfig(
            image_size=grid * patch,
            patch_size=patch,
            embed_dim=16 * heads,
            depth=len(windows) + 1,
            num_heads=heads,
            mlp_dim=40,
            # A window as wide as the grid is global attention under another name.
            window_sizes=(*(0 if window == grid else window for window in windows), 0),
            out_chans=decoder.dim,
        )
        config = SamConfig(encoder, decoder)
        found = recognise(checkpoint(shapes_only(config)))
        assert found.config == config
        assert found.name == "sam_vit"
        empty_sam(config).load_state_dict(found.state, strict=True)

    @settings(max_examples=30)
    @given(
        depths=st.tuples(*[st.integers(1, 3)] * 4),
        widths=st.tuples(*[st.integers(1, 4)] * 4),
        heads=st.tuples(st.just(0), *[st.sampled_from([1, 2, 4])] * 3),
        windows=st.tuples(st.just(0), *[st.integers(1, 14)] * 3),
        sixteenths=st.integers(1, 20),
    )
    def test_any_tiny_vit(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        heads: tuple[int, ...],
        windows: tuple[int, ...],
        sixteenths: int,
    ) -> None:
        encoder = TinyViTConfig(
            image_size=16 * sixteenths,
            embed_dims=tuple(8 * width for width in widths),
            depths=depths,
            num_heads=heads,
            window_sizes=windows,
            mlp_dims=(24, 40, 48, 56),
            out_chans=64,
        )
        config = SamConfig(encoder, DecoderConfig(dim=64, mlp_dim=32, internal_dim=32))
        found = recognise(checkpoint(shapes_only(config)), image_size=16 * sixteenths)
        assert found.config == config
        assert found.name == "tiny_vit_sam"

    @pytest.mark.parametrize(
        ("lengths", "grid", "wanted"),
        [
            ([27, 27, 127], 64, (14, 14, 0)),  # SAM itself
            ([127, 127], 64, (0, 0)),  # nothing but global attention
            ([27, 27], 14, (0, 0)),  # a grid of one window
            ([27, 127, 27], 16, (14, 0, 14)),  # smaller images, tables as they were
            ([27, 63], 64, (14, 0)),  # larger images, tables as they were
            ([27, 127], 8, (14, 0)),  # images smaller than a window, tables as they were
            ([27, 15], 8, (14, 0)),  # the same, with the global tables resized
            ([5, 5], 8, (3, 3)),  # nothing but windows
            ([5, 9, 15], 8, (3, 5, 0)),  # windows of two sizes
        ],
    )
    def test_windows_from_the_tables(self, lengths: list[int], grid: int, wanted: tuple[int, ...]) -> None:
        assert window_sizes(lengths, grid) == wanted

    def test_tables_of_another_image_size_are_interpolated_as_the_reference_does(self) -> None:
        config = SamConfig(
            vit_config(embed_dim=32, depth=2, num_heads=2, global_blocks=(1,), image_size=160, window_size=4)
        )
        state = dict(_state(config))
        for axis in "hw":
            state[f"image_encoder.blocks.1.attn.rel_pos_{axis}"] = torch.randn(
                63, 16, generator=torch.Generator().manual_seed(ord(axis))
            )
        theirs = reference.reference_sam(_state(config), config)
        for axis in "hw":  # its own shape is checked when it is loaded, and interpolated when it is used
            key = f"rel_pos_{axis}"
            setattr(
                theirs.image_encoder.blocks[1].attn,
                key,
                torch.nn.Parameter(state[f"image_encoder.blocks.1.attn.{key}"]),
            )
        image = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            wanted = theirs.image_encoder(image)
        assert (build_model(checkpoint(state)).encode(image) - wanted).abs().max() < 1e-4

    def test_the_model_is_ready_for_use(self) -> None:
        sam = build_model(checkpoint(_state(SMALL_VIT)))
        assert not sam.training
        assert not any(weight.requires_grad for weight in sam.parameters())
        for key, value in sam.state_dict().items():
            assert torch.equal(value, _state(SMALL_VIT)[key])


class TestExtraKeys:
    def test_the_classifier_of_tiny_vit_and_derived_tables_are_left_out(self) -> None:
        state = small(SMALL_TINY_VIT)
        state["image_encoder.layers.1.blocks.0.attn.attention_bias_idxs"] = torch.zeros(49, 49, dtype=torch.int64)
        state["image_encoder.layers.1.blocks.0.attn.ab"] = torch.zeros(2, 49, 49)
        found = recognise(checkpoint(state), 128)
        assert set(found.state) == set(weight_shapes(SMALL_TINY_VIT))

    def test_a_mobile_sam_without_the_classifier(self) -> None:
        classifier = ("image_encoder.head.", "image_encoder.norm_head.")
        state = {key: value for key, value in small(SMALL_TINY_VIT).items() if not key.startswith(classifier)}
        assert recognise(checkpoint(state), 128).config == SMALL_TINY_VIT

    def test_sams_own_normalisation_is_left_out(self) -> None:
        state = small(
            pixel_mean=torch.tensor([123.675, 116.28, 103.53]).reshape(3, 1, 1),
            pixel_std=torch.tensor([58.395, 57.12, 57.375]),
        )
        assert recognise(checkpoint(state)).config == SMALL_VIT

    @pytest.mark.parametrize("value", [torch.zeros(3), torch.tensor([0.485, 0.456, 0.406]), torch.ones(1)])
    def test_another_normalisation_is_refused(self, value: Tensor) -> None:
        with pytest.raises(UnknownArchitectureError, match="pixel_mean"):
            recognise(checkpoint(small(pixel_mean=value)))


class TestImageSize:
    def test_of_a_vit_is_in_the_weights(self) -> None:
        assert recognise(checkpoint(_state(SMALL_VIT)), 128).config == SMALL_VIT
        with pytest.raises(UsageError, match=r"100 px is not possible.*Omit it for the size of the weights, 128 px"):
            recognise(checkpoint(_state(SMALL_VIT)), 100)

    @pytest.mark.parametrize("size", [64, 96, 256])
    def test_positions_of_a_vit_are_resized_as_samed_does(self, size: int) -> None:
        state = _state(SMALL_VIT)
        found = recognise(checkpoint(state), size)
        assert found.notes == (f"positions resized from 128 px to {size} px, as SAMed does",)
        assert isinstance(found.config.encoder, ViTConfig)
        assert isinstance(SMALL_VIT.encoder, ViTConfig)
        assert found.config.encoder.window_sizes == SMALL_VIT.encoder.window_sizes
        grid, theirs = size // 16, dict(state)
        # The lines of load_from in SAMed's segment_anything/build_sam.py, for blocks of global attention.
        theirs["image_encoder.pos_embed"] = F.interpolate(
            state["image_encoder.pos_embed"].permute(0, 3, 1, 2), (grid, grid), mode="bilinear", align_corners=False
        ).permute(0, 2, 3, 1)
        for key in state:
            if "rel_pos" in key and key.split(".")[2] in "13":
                table = state[key][None, None]
                wanted = (grid * 2 - 1, table.shape[-1])
                theirs[key] = F.interpolate(table, wanted, mode="bilinear", align_corners=False)[0, 0]
        assert found.state.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(found.state[key], value, rtol=0, atol=1e-6)
        sam = assemble(found)
        assert sam.encode(torch.zeros(1, 3, size, size)).shape == (1, 256, grid, grid)

    def test_of_a_tiny_vit_is_1024_unless_told(self) -> None:
        state = _state(SMALL_TINY_VIT)
        assert recognise(checkpoint(state)).config.encoder.image_size == 1024
        assert recognise(checkpoint(state, image_size="256")).config.encoder.image_size == 256
        assert recognise(checkpoint(state, image_size="256"), 512).config.encoder.image_size == 512

    @pytest.mark.parametrize("size", [0, -16, 100, 1023])
    def test_that_is_not_possible(self, size: int) -> None:
        with pytest.raises(UsageError, match="multiple of 16"):
            recognise(checkpoint(_state(SMALL_TINY_VIT)), size)

    @pytest.mark.parametrize("text", ["", "big", "-5", "1e3"])
    def test_that_is_no_number_in_the_metadata(self, text: str) -> None:
        with pytest.raises(CheckpointError, match="image_size"):
            recognise(checkpoint(_state(SMALL_TINY_VIT), image_size=text))


def keys(*names: str) -> dict[str, Tensor]:
    return {name: torch.ones(2, 2) for name in names}


FOREIGN = {
    "SAM-HQ": small(mask_decoder__hf_token__weight=torch.ones(1, 256)),
    "SAM 2": keys("image_encoder.trunk.pos_embed", "sam_mask_decoder.iou_token.weight", "memory_attention.norm.weight"),
    "EfficientSAM": small(mask_decoder__final_output_upscaling_layers__0__0__weight=torch.ones(2)),
    "adapter": small(image_encoder__blocks__0__MLP_Adapter__D_fc1__weight=torch.ones(2)),
    "LoRA": small(image_encoder__blocks__0__attn__qkv__linear_a_q__weight=torch.ones(2)),
    "Hugging Face": keys("shared_image_embedding.positional_embedding", "vision_encoder.layers.0.attn.qkv.weight"),
    "YOLO": keys("model.0.conv.weight", "model.22.proto.cv1.conv.weight"),
    "vision transformer": keys("cls_token", "pos_embed", "blocks.0.norm1.weight", "patch_embed.proj.weight"),
    "encoder of a SAM alone": {
        key.removeprefix("image_encoder."): value
        for key, value in small(SMALL_TINY_VIT).items()
        if key.startswith("image_encoder.")
    },
}


class TestForeign:
    @pytest.mark.parametrize("family", list(FOREIGN))
    def test_known_families_are_named(self, family: str) -> None:
        with pytest.raises(UnknownArchitectureError, match="looks like") as caught:
            recognise(checkpoint(FOREIGN[family]))
        assert family in str(caught.value)
        assert "some_name.pt" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_anything_else_is_shown_by_its_keys(self) -> None:
        state = keys("stem.weight", "head.weight", "a", "b", "c")
        with pytest.raises(UnknownArchitectureError, match=r"stem\.weight, head\.weight, a and 2 more") as caught:
            recognise(checkpoint(state))
        assert caught.value.family is None

    def test_missing_and_unexpected_keys_are_counted_and_named(self) -> None:
        state = small(mask_decoder__extra=torch.ones(1))
        del state["mask_decoder.iou_token.weight"]
        del state["image_encoder.blocks.2.norm1.bias"]
        with pytest.raises(UnknownArchitectureError) as caught:
            recognise(checkpoint(state))
        assert caught.value.missing == ("image_encoder.blocks.2.norm1.bias", "mask_decoder.iou_token.weight")
        assert caught.value.unexpected == ("mask_decoder.extra",)
        assert "missing: image_encoder.blocks.2.norm1.bias" in str(caught.value)

    @pytest.mark.parametrize(
        ("key", "shape"),
        [
            ("image_encoder.pos_embed", (1, 8, 9, 64)),
            ("image_encoder.pos_embed", (64, 64)),
            ("image_encoder.pos_embed", (1, 0, 0, 64)),
            ("image_encoder.patch_embed.proj.weight", (64, 3, 16)),
            ("image_encoder.blocks.0.attn.rel_pos_h", (5, 33)),
            ("image_encoder.blocks.3.attn.rel_pos_w", (16, 32)),
            ("image_encoder.neck.0.weight", (128, 64, 1, 1)),
            ("image_encoder.blocks.1.mlp.lin1.weight", (255, 64)),
            ("prompt_encoder.no_mask_embed.weight", (1, 250)),
            ("prompt_encoder.mask_downscaling.3.weight", (15, 4, 2, 2)),
            ("mask_decoder.mask_tokens.weight", (4,)),
            ("mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight", (100, 256)),
        ],
    )
    def test_odd_shapes(self, key: str, shape: tuple[int, ...]) -> None:
        with pytest.raises(UnknownArchitectureError):
            recognise(checkpoint({**_state(SMALL_VIT), key: torch.ones(shape)}))

    @pytest.mark.parametrize(
        ("key", "shape"),
        [
            ("image_encoder.layers.1.blocks.0.attn.attention_biases", (2, 48)),
            ("image_encoder.layers.2.blocks.0.attn.attention_biases", (5, 9)),
            ("image_encoder.layers.4.blocks.0.conv1.c.weight", (1, 1, 1, 1)),
            ("image_encoder.layers.0.downsample.conv2.c.weight", (32, 1, 5, 5)),
        ],
    )
    def test_odd_shapes_of_a_tiny_vit(self, key: str, shape: tuple[int, ...]) -> None:
        with pytest.raises(UnknownArchitectureError):
            recognise(checkpoint({**_state(SMALL_TINY_VIT), key: torch.ones(shape)}), 128)

    def test_a_batch_norm_with_a_negative_variance(self) -> None:
        key = "image_encoder.patch_embed.seq.0.bn.running_var"
        with pytest.raises(CheckpointError, match=r"image_encoder\.patch_embed\.seq\.0.*negative variance"):
            recognise(checkpoint({**_state(SMALL_TINY_VIT), key: torch.full((8,), -1.0)}), 128)

    @settings(max_examples=60)
    @given(data=st.data(), config=st.sampled_from([SMALL_VIT, SMALL_TINY_VIT]))
    def test_any_weight_missing_or_of_another_shape_is_refused_or_loads(
        self, data: st.DataObject, config: SamConfig
    ) -> None:
        state = dict(_state(config))
        used = [key for key in state if "head" not in key and "num_batches_tracked" not in key]
        key = data.draw(st.sampled_from(used))
        if data.draw(st.booleans()):
            del state[key]
        else:
            shape = list(state[key].shape) or [1]
            axis = data.draw(st.integers(0, len(shape) - 1))
            shape[axis] += data.draw(st.sampled_from([1, 2]))
            state[key] = torch.ones(shape)
        # A token more a side, in all places at once, is another image size.
        with suppress(UnknownArchitectureError, UsageError):
            # What is left is a model all the same, of other sizes, and loads.
            found = recognise(checkpoint(state), 128)
            empty_sam(found.config).load_state_dict(found.state, strict=True)


def test_sizes_beside_the_known_ones_have_the_familys_name() -> None:
    base = KNOWN_CONFIGS["sam_vit_b"]
    assert isinstance(base.encoder, ViTConfig)
    smaller = SamConfig(replace(base.encoder, image_size=512), base.decoder)
    assert recognise(checkpoint(shapes_only(smaller))).name == "sam_vit"
    mobile = shapes_only(KNOWN_CONFIGS["mobile_sam"])
    assert recognise(checkpoint(mobile), 512).name == "tiny_vit_sam"
