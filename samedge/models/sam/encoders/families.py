"""The table of image encoders that a SAM can have.

An encoder is a module with its code and one line here: a table of strings, so that torch code of one encoder is not
imported for another. Everything that is built, exported and measured asks the line; nothing asks which encoder it is.
Encoders from outside are added by `samedge.families`.
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
    """From weights to sizes, and from sizes to a module."""

    def sizes(self, state: State, image_size: int | None) -> EncoderConfig:
        """Return the sizes of an encoder from the shapes of its weights.

        Args:
            state: The weights, with batch norms folded.
            image_size: Side of the square input as it was asked for, px; None where it was not.

        Raises:
            MisfitError: A weight is absent or has an odd shape.
            UsageError: The image size does not fit the model.
        """
        ...

    def fit(self, state: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
        """Return the weights as the module of these sizes takes them."""
        ...

    def build(self, config: Any) -> nn.Module:
        """Return the encoder of these sizes, which has ``image_size``, ``grid`` and ``family``."""
        ...

    def seeded_shapes(self, shapes: Shapes, config: Any) -> Shapes:
        """Return the shapes of a checkpoint's weights, from those of the module's."""
        ...


@dataclass(frozen=True, slots=True)
class EncoderFamily:
    """One line of the table.

    Attributes:
        name: Of its configurations and modules, and of the models that have no name of their own.
        marker: A key of weights that only this encoder has.
        target: "module:class" of its `EncoderModel`.
        configs: "module:NAME" of the configurations that it names, a mapping to `SamConfig`.
        form: "module:function" that takes an encoder and a form, and returns the module that is exported and the name
            of its variant; the encoder is exported as it is if empty.
        features: Names of the maps that it gives; the first is what the mask decoder takes.
        reference: "module:class" of its `samedge.benchmarks.reference.packages.ReferencePackage`; empty without one.
    """

    name: str
    marker: str
    target: str
    configs: str
    form: str = ""
    features: tuple[str, ...] = ("image_embeddings",)
    reference: str = ""

    def model(self) -> EncoderModel:
        """Import the encoder's module and return its class."""
        return cast("EncoderModel", resolve(self.target)())

    def known(self) -> Mapping[str, SamConfig]:
        """Return the configurations that have names."""
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
    """Return the table, and the encoders that plug-ins add."""
    return (*ENCODERS, *plugged(EncoderFamily))


def encoder_family(name: str) -> EncoderFamily:
    """Return the line with this name.

    Raises:
        UsageError: There is none.
    """
    for family in encoder_families():
        if family.name == name:
            return family
    known = ", ".join(family.name for family in encoder_families())
    raise UsageError(f"there is no image encoder {name!r}", cure=f"Known are: {known}")


def known_configs() -> dict[str, SamConfig]:
    """Return the configurations that have names, of all encoders."""
    return {name: config for family in encoder_families() for name, config in family.known().items()}
