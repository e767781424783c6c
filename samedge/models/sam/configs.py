"""Configurations of SAM: sizes and nothing else. No torch needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Protocol


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Conversion of pixels, RGB, 0..255, to an encoder's input.

    Attributes:
        pixel_mean: Subtracted from each channel.
        pixel_std: Divisor of each channel.
        stretched: Before that, the values of each image are stretched to 0..255.
    """

    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    stretched: bool = False


IMAGENET: Final = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
IMAGE_RANGE: Final = Normalisation((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), stretched=True)
"""Of MedSAM's models: the least value of an image is 0, the greatest is 1."""


class EncoderConfig(Protocol):
    """Sizes of an image encoder of any family."""

    @property
    def family(self) -> str:
        """Name of the family in `samedge.models.sam.encoders.families`."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the square input, px."""
        ...

    @property
    def grid(self) -> int:
        """Side of the image embedding."""
        ...

    @property
    def out_chans(self) -> int:
        """Channels of the embedding."""
        ...

    @property
    def residual_blocks(self) -> int:
        """Number of blocks with a residual sum; seeded weights are scaled by it."""
        ...


@dataclass(frozen=True, slots=True)
class ViTConfig:
    """Sizes of Meta's ViT image encoder.

    Attributes:
        image_size: Side of the square input, px.
        patch_size: Side of a patch, px.
        embed_dim: Channels of a token.
        depth: Number of blocks.
        num_heads: Attention heads.
        mlp_dim: Hidden channels of each MLP.
        window_sizes: For each block, the side of its windows in tokens; 0 for global attention.
        out_chans: Channels of the embedding.
    """

    family: ClassVar[str] = "sam_vit"
    image_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    window_sizes: tuple[int, ...]
    out_chans: int = 256

    @property
    def grid(self) -> int:
        """Side of the image embedding."""
        return self.image_size // self.patch_size

    @property
    def residual_blocks(self) -> int:
        """See `EncoderConfig`."""
        return self.depth


@dataclass(frozen=True, slots=True)
class TinyViTConfig:
    """Sizes of MobileSAM's TinyViT image encoder. Tuples have one entry per stage; stage 0 is convolutional.

    Attributes:
        image_size: Side of the square input, px; a multiple of the `stride`. Not determined by the weights.
        embed_dims: Channels.
        depths: Number of blocks.
        num_heads: Attention heads; 0 in stage 0.
        window_sizes: Side of a window in tokens; 0 in stage 0.
        mlp_dims: Hidden channels of a block: in stage 0, of its convolutions.
        local_conv_size: Side of the depthwise kernel between attention and MLP.
        out_chans: Channels of the embedding.
        patch_stride: Stride of the two convolutions that embed patches: 2, or 1 in LiteMedSAM, where they are 1 x 1.
    """

    family: ClassVar[str] = "tiny_vit_sam"
    image_size: int
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_sizes: tuple[int, ...]
    mlp_dims: tuple[int, ...]
    local_conv_size: int = 3
    out_chans: int = 256
    patch_stride: int = 2

    @property
    def stride(self) -> int:
        """Pixels for each step of the embedding."""
        return self.patch_stride**2 * 4

    @property
    def grid(self) -> int:
        """Side of the image embedding."""
        return self.image_size // self.stride

    @property
    def residual_blocks(self) -> int:
        """See `EncoderConfig`."""
        return sum(self.depths)

    @property
    def normalisation(self) -> Normalisation:
        """That of MobileSAM or of LiteMedSAM."""
        return IMAGENET if self.patch_stride > 1 else IMAGE_RANGE


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes of the prompt encoder and the mask decoder.

    Attributes:
        dim: Channels of tokens and image embedding.
        mask_in_chans: Hidden channels of the mask prompt's branch.
        depth: Layers of the two-way transformer.
        num_heads: Its attention heads. Not determined by the weights; every SAM has 8.
        mlp_dim: Hidden channels of its MLPs.
        internal_dim: Channels of query, key and value between tokens and image.
        num_mask_tokens: Masks per prompt.
        iou_head_depth: Linear layers of the IoU prediction head.
        iou_head_hidden_dim: Their hidden channels.
    """

    dim: int = 256
    mask_in_chans: int = 16
    depth: int = 2
    num_heads: int = 8
    mlp_dim: int = 2048
    internal_dim: int = 128
    num_mask_tokens: int = 4
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256


@dataclass(frozen=True, slots=True)
class SamConfig:
    """Sizes of a whole SAM."""

    encoder: EncoderConfig
    decoder: DecoderConfig = DecoderConfig()


def vit_config(
    *,
    embed_dim: int,
    depth: int,
    num_heads: int,
    global_blocks: tuple[int, ...],
    image_size: int = 1024,
    window_size: int = 14,
) -> ViTConfig:
    """Return the configuration of a ViT in the terms of Meta's builder: `global_blocks` are indices of blocks."""
    return ViTConfig(
        image_size=image_size,
        patch_size=16,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_dim=4 * embed_dim,
        window_sizes=tuple(0 if i in global_blocks else window_size for i in range(depth)),
    )


SMALL_VIT: Final = SamConfig(
    # 8 x 8 tokens in windows of 3, so that some windows are mostly padding.
    vit_config(embed_dim=64, depth=4, num_heads=2, global_blocks=(1, 3), image_size=128, window_size=3)
)
SMALL_TINY_VIT: Final = SamConfig(
    TinyViTConfig(
        image_size=128,
        embed_dims=(16, 32, 48, 320),  # the reference keeps the last stage's resolution only at 320, 448 and 576
        depths=(2, 1, 2, 1),
        num_heads=(0, 2, 3, 10),
        window_sizes=(0, 7, 3, 5),
        mlp_dims=(64, 64, 96, 640),
    )
)

VIT_CONFIGS: Final = {
    "sam_vit_b": SamConfig(vit_config(embed_dim=768, depth=12, num_heads=12, global_blocks=(2, 5, 8, 11))),
    "sam_vit_l": SamConfig(vit_config(embed_dim=1024, depth=24, num_heads=16, global_blocks=(5, 11, 17, 23))),
    "sam_vit_h": SamConfig(vit_config(embed_dim=1280, depth=32, num_heads=16, global_blocks=(7, 15, 23, 31))),
    "sam_vit_tiny": SMALL_VIT,
}
TINY_VIT_CONFIGS: Final = {
    "mobile_sam": SamConfig(
        TinyViTConfig(
            image_size=1024,
            embed_dims=(64, 128, 160, 320),
            depths=(2, 2, 6, 2),
            num_heads=(0, 4, 5, 10),
            window_sizes=(0, 7, 14, 7),
            mlp_dims=(256, 512, 640, 1280),
        )
    ),
    "tiny_vit_tiny": SMALL_TINY_VIT,
    "lite_medsam": SamConfig(
        TinyViTConfig(
            image_size=256,
            embed_dims=(64, 128, 160, 320),
            depths=(2, 2, 6, 2),
            num_heads=(0, 4, 5, 10),
            window_sizes=(0, 7, 14, 7),
            mlp_dims=(256, 512, 640, 1280),
            patch_stride=1,
        )
    ),
    "lite_medsam_tiny": SamConfig(
        TinyViTConfig(
            image_size=32,
            embed_dims=(16, 32, 48, 320),
            depths=(2, 1, 2, 1),
            num_heads=(0, 2, 3, 10),
            window_sizes=(0, 7, 3, 5),
            mlp_dims=(64, 64, 96, 640),
            patch_stride=1,
        )
    ),
}
KNOWN_CONFIGS: Final = {**VIT_CONFIGS, **TINY_VIT_CONFIGS}
"""Configurations by name; those that end in "_tiny" are for tests and demonstrations."""
