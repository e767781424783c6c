"""An image encoder from outside the package: all that it takes to have one, in one module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from torch import Tensor, nn

from samedge.models.checkpoints.shapes import shape_of
from samedge.models.sam.configs import DecoderConfig, SamConfig
from samedge.models.sam.encoders.families import EncoderFamily


@dataclass(frozen=True, slots=True)
class ToyConfig:
    """Sizes."""

    family: ClassVar[str] = "toy_encoder"
    residual_blocks: ClassVar[int] = 1
    image_size: int
    width: int
    out_chans: int = 32

    @property
    def grid(self) -> int:
        return self.image_size // 16


class ToyEncoder(nn.Module):
    """A patch embedding and one layer."""

    family = "toy_encoder"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.image_size, self.grid = config.image_size, config.grid
        self.patches = nn.Conv2d(3, config.width, 16, stride=16)
        self.out = nn.Conv2d(config.width, config.out_chans, 1)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.out(nn.functional.gelu(self.patches(image)))
        return out


class ToyEncoderModel:
    """From weights to the encoder."""

    def sizes(self, state: Mapping[str, Tensor], image_size: int | None) -> ToyConfig:
        width = shape_of(state, "image_encoder.patches.weight", 4)[0]
        return ToyConfig(image_size or 64, width, shape_of(state, "image_encoder.out.weight", 4)[0])

    def fit(self, state: dict[str, Tensor], config: ToyConfig) -> dict[str, Tensor]:
        return state

    def build(self, config: ToyConfig) -> nn.Module:
        return ToyEncoder(config)

    def seeded_shapes(self, shapes: dict[str, tuple[int, ...]], config: ToyConfig) -> dict[str, tuple[int, ...]]:
        return shapes


CONFIGS: Final = {
    "toy_sam": SamConfig(
        ToyConfig(image_size=64, width=24),
        DecoderConfig(dim=32, mask_in_chans=4, mlp_dim=64, internal_dim=16, iou_head_hidden_dim=16),
    )
}

ENCODER: Final = EncoderFamily(
    "toy_encoder",
    marker="image_encoder.patches.weight",
    target="families.toy_encoder:ToyEncoderModel",
    configs="families.toy_encoder:CONFIGS",
)
