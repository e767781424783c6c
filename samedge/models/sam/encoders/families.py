"""The table of SAM's image encoders.

An encoder is one module and one line of strings here, so that the torch code of other encoders is not imported. Code
that builds, exports or measures asks the line, never which encoder it is. Plug-ins add encoders through
`samedge.families`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, cast

from torch import Tensor, nn

from samedge.errors import UsageError
from samedge.families import plugged, resolve
from samedge.models.checkpoints.shapes import State
from samedge.models.sam.configs import EncoderConfig, SamConfig

Shapes: TypeAlias = dict[str, tuple[int, ...]]
"""Shapes of weights by key."""


class EncoderModel(Protocol):
    """Conversion of weights to sizes, and of sizes to a module."""

    def sizes(self, state: State, image_size: int | None) -> EncoderConfig:
        """Return the sizes of an encoder, read from the shapes of its weights.

        Args:
            state: Weights with batch norms folded.
            image_size: Requested side of the square input, px; None for the model's own.

        Raises:
            MisfitError: A weight is missing or has a wrong shape.
            UsageError: The image size does not fit the model.
        """
        ...

    def fit(self, state: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
        """Return the weights as the module of these sizes expects them."""
        ...

    def build(self, config: Any) -> nn.Module:
        """Return an encoder of these sizes, with ``image_size``, ``grid`` and ``family``."""
        ...

    def seeded_shapes(self, shapes: Shapes, config: Any) -> Shapes:
        """Return the shapes of a checkpoint's weights, given those of the module's."""
        ...


@dataclass(frozen=True, slots=True)
class EncoderFamily:
    """One line of the table.

    Attributes:
        name: Name of its configurations and modules, and of models in unknown sizes.
        marker: A key that only this encoder's weights have.
        target: "module:class" of its `EncoderModel`.
        configs: "module:NAME" of its named configurations, a mapping to `SamConfig`.
        form: "module:function" that maps an encoder and a form to the module to export and the name of the variant;
            empty to export the encoder itself.
        features: Names of its output maps; the mask decoder takes the first.
        reference: "module:class" of its `samedge.benchmarks.reference.packages.ReferencePackage`; empty for none.
    """

    name: str
    marker: str
    target: str
    configs: str
    form: str = ""
    features: tuple[str, ...] = ("image_embeddings",)
    reference: str = ""

    def model(self) -> EncoderModel:
        """Import and instantiate its `EncoderModel`."""
        return cast("EncoderModel", resolve(self.target)())

    def known(self) -> Mapping[str, SamConfig]:
        """Return the named configurations."""
        return cast("Mapping[str, SamConfig]", resolve(self.configs))


ENCODERS: Final = (
    EncoderFamily(
        "sam_vit",
        marker="image_encoder.patch_embed.proj.weight",
        target="samedge.models.sam.encoders.vit_family:ViTModel",
        configs="samedge.models.sam.configs:VIT_CONFIGS",
        form="samedge.export.graphs.encoder_forms:vit_form",
        reference="samedge.benchmarks.reference.packages:SegmentAnything",
    ),
    EncoderFamily(
        "tiny_vit_sam",
        marker="image_encoder.patch_embed.seq.0.weight",
        target="samedge.models.sam.encoders.tiny_vit_family:TinyViTModel",
        configs="samedge.models.sam.configs:TINY_VIT_CONFIGS",
        form="samedge.export.graphs.tiny_vit_form:tiny_vit_form",
        reference="samedge.benchmarks.reference.packages:MobileSam",
    ),
)


def encoder_families() -> tuple[EncoderFamily, ...]:
    """Return the table with the encoders of plug-ins."""
    return (*ENCODERS, *plugged(EncoderFamily))


def encoder_family(name: str) -> EncoderFamily:
    """Return the line of a name.

    Raises:
        UsageError: It is unknown.
    """
    for family in encoder_families():
        if family.name == name:
            return family
    known = ", ".join(family.name for family in encoder_families())
    raise UsageError(f"unknown image encoder {name!r}", cure=f"Choose one of: {known}")


def known_configs() -> dict[str, SamConfig]:
    """Return the named configurations of all encoders."""
    return {name: config for family in encoder_families() for name, config in family.known().items()}
