"""The TinyViTs of MobileSAM and LiteMedSAM among the image encoders: sizes from weights, modules from sizes."""

from __future__ import annotations

import math
from typing import Final

from torch import Tensor, nn

from samedge.errors import UsageError
from samedge.models.checkpoints.shapes import MisfitError, State, count_entries, shape_of
from samedge.models.sam.configs import TinyViTConfig
from samedge.models.sam.encoders.families import Shapes
from samedge.models.sam.encoders.tiny_vit import TinyViT

TINY_VIT_STAGES: Final = 4
_IMAGE_SIZES: Final = {2: 1024, 1: 256}
"""Of MobileSAM and LiteMedSAM, by the stride of the patch embedding."""

_CLASSES: Final = 1000
_UNUSED: Final = ("image_encoder.norm_head.", "image_encoder.head.")
_DERIVED: Final = (".attention_bias_idxs", ".attn.ab")


class TinyViTModel:
    """The `samedge.models.sam.encoders.families.EncoderModel` of MobileSAM's TinyViT."""

    def sizes(self, state: State, image_size: int | None) -> TinyViTConfig:
        """Read the sizes; `image_size` must be a positive multiple of 16, or of 4 for LiteMedSAM."""
        stride = _patch_stride(state)
        size = _IMAGE_SIZES[stride] if image_size is None else image_size
        step = stride**2 * 4
        if size <= 0 or size % step:
            raise UsageError(
                f"an image size of {size} px is not possible for this model",
                cure=f"Choose a positive multiple of {step}",
            )
        at = "image_encoder.layers"
        stages = count_entries(state, at)
        if stages != TINY_VIT_STAGES:
            raise MisfitError(f"it has {stages} stages, not {TINY_VIT_STAGES}")
        blocks = [f"{at}.{i}.blocks.0" for i in range(stages)]
        biases = [shape_of(state, f"{block}.attn.attention_biases", 2) for block in blocks[1:]]
        if any(math.isqrt(offsets) ** 2 != offsets for _, offsets in biases):
            raise MisfitError("its attention windows are not square")
        dims = (
            shape_of(state, "image_encoder.patch_embed.seq.2.weight", 4)[0],
            *(shape_of(state, f"{block}.attn.qkv.weight", 2)[1] for block in blocks[1:]),
        )
        if any(dim % heads for dim, (heads, _) in zip(dims[1:], biases, strict=True)):
            raise MisfitError("its attention has no whole number of heads")
        return TinyViTConfig(
            image_size=size,
            embed_dims=dims,
            depths=tuple(count_entries(state, f"{at}.{i}.blocks") for i in range(stages)),
            num_heads=(0, *(heads for heads, _ in biases)),
            window_sizes=(0, *(math.isqrt(offsets) for _, offsets in biases)),
            mlp_dims=(
                shape_of(state, f"{blocks[0]}.conv1.weight", 4)[0],
                *(shape_of(state, f"{block}.mlp.fc1.weight", 2)[0] for block in blocks[1:]),
            ),
            local_conv_size=shape_of(state, f"{blocks[1]}.local_conv.weight", 4)[-1],
            out_chans=shape_of(state, "image_encoder.neck.0.weight", 4)[0],
            patch_stride=stride,
        )

    def assumptions(self, state: State, image_size: int | None) -> tuple[str, ...]:
        """Return a note on the image size, if nothing determines it."""
        if image_size is not None:
            return ()
        size = _IMAGE_SIZES[_patch_stride(state)]
        return (f"input {size} px assumed: the weights do not determine it; --image-size changes it",)

    def fit(self, state: dict[str, Tensor], config: TinyViTConfig) -> dict[str, Tensor]:
        """Drop the unused classifier, and tables that some forks save."""
        return {k: value for k, value in state.items() if not k.startswith(_UNUSED) and not k.endswith(_DERIVED)}

    def build(self, config: TinyViTConfig) -> nn.Module:
        """Return the encoder."""
        return TinyViT(config)

    def seeded_shapes(self, shapes: Shapes, config: TinyViTConfig) -> Shapes:
        """Return the module's shapes with batch norms and the unused classifier."""
        return _with_batch_norms(shapes, config.embed_dims[-1])


def _patch_stride(state: State) -> int:
    """Return the stride of the patch embedding, which follows from the size of its kernels."""
    sizes = {shape_of(state, f"image_encoder.patch_embed.seq.{at}.weight", 4)[2:] for at in (0, 2)}
    if sizes not in ({(3, 3)}, {(1, 1)}):
        raise MisfitError("its patches are embedded by convolutions of another size than 3 x 3 or 1 x 1")
    return 2 if sizes == {(3, 3)} else 1


def _with_batch_norms(shapes: Shapes, width: int) -> Shapes:
    """Undo what `fold_batch_norms` does to the keys, and add MobileSAM's unused classifier of a width."""
    unfolded: dict[str, tuple[int, ...]] = {}
    for key, shape in shapes.items():
        name = key.removesuffix(".weight")
        if not key.startswith("image_encoder.") or ".neck." in key:
            unfolded[key] = shape
        elif len(shape) == 4:
            unfolded[f"{name}.c.weight"] = shape
            for part in ("weight", "bias", "running_mean", "running_var"):
                unfolded[f"{name}.bn.{part}"] = shape[:1]
            unfolded[f"{name}.bn.num_batches_tracked"] = ()
        elif len(shapes.get(f"{key.removesuffix('.bias')}.weight", ())) != 4:
            unfolded[key] = shape
    unfolded["image_encoder.norm_head.weight"] = unfolded["image_encoder.norm_head.bias"] = (width,)
    unfolded["image_encoder.head.weight"] = (_CLASSES, width)
    unfolded["image_encoder.head.bias"] = (_CLASSES,)
    return unfolded
