"""A family of models from outside the package: all that it takes to have one, in one module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, Final

import msgspec
import torch
from torch import Tensor, nn

from samedge.bundle.manifest import InputRecord
from samedge.export.graphs.plans import GraphPlan
from samedge.export.one_graph import OneGraphExporter
from samedge.families import Family
from samedge.models.checkpoints.read import Checkpoint

SIZE: Final = 64
WIDTH: Final = 6
_KEY: Final = "toy.first.weight"


class Toy(nn.Module):
    """Finds ``WIDTH`` masks in an image, each with a score."""

    def __init__(self) -> None:
        super().__init__()
        self.toy = nn.ModuleDict({"first": nn.Conv2d(3, 8, 4, stride=4), "last": nn.Conv2d(8, WIDTH, 3, padding=1)})

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        masks = self.toy["last"](torch.relu(self.toy["first"](image)))
        return masks, torch.sigmoid(masks.abs().mean((2, 3)) - 0.2)


@dataclass(frozen=True, slots=True)
class LoadedToy:
    """A toy, and where it came from."""

    family: ClassVar[str] = "toy"
    model: Toy
    name: str
    licence: str
    checkpoint: str
    sha256: str
    seeded: bool


class ToyLoader:
    """From a checkpoint to a toy."""

    def recognises(self, checkpoint: Checkpoint) -> bool:
        return _KEY in checkpoint.state

    def load(self, checkpoint: Checkpoint, image_size: int | tuple[int, int] | None) -> LoadedToy:
        model = Toy().eval()
        model.load_state_dict(checkpoint.state)
        return LoadedToy(model, "toy", "CC0-1.0", checkpoint.path.name, checkpoint.sha256, seeded=False)

    def has_seeded(self, name: str) -> bool:
        return name == "toy"

    def load_seeded(self, source: str, image_size: int | tuple[int, int] | None) -> LoadedToy:
        model = Toy().eval()
        model.load_state_dict(self.seeded_state(source))
        return LoadedToy(model, "toy", "CC0-1.0", source, sha256(source.encode()).hexdigest(), seeded=True)

    def seeded_state(self, name: str) -> Mapping[str, Tensor]:
        generator = torch.Generator().manual_seed(7)
        shapes = {key: value.shape for key, value in Toy().state_dict().items()}
        return {key: torch.randn(shape, generator=generator) / 8 for key, shape in shapes.items()}


@dataclass(frozen=True, slots=True)
class ToyOptions:
    """Export options of toys.

    Attributes:
        toy_threshold: Logit above which a pixel is part of a mask.
    """

    toy_threshold: float = 0.0


class ToyExporter(OneGraphExporter):
    """From a toy to what is traced."""

    def source(self, loaded: LoadedToy) -> InputRecord:
        threshold = self.options.part(ToyOptions).toy_threshold
        return msgspec.structs.replace(super().source(loaded), mask_threshold=threshold)

    def plan(self, loaded: LoadedToy) -> GraphPlan:
        return GraphPlan(
            role="toy",
            module=loaded.model,
            example=(torch.zeros(1, 3, SIZE, SIZE),),
            inputs=("image",),
            outputs=("masks", "scores"),
            dynamic_axes={name: {0: "batch"} for name in ("image", "masks", "scores")},
        )


FAMILY: Final = Family(
    "toy",
    "a toy",
    roles=("toy",),
    loader="families.toy_family:ToyLoader",
    exporter="families.toy_family:ToyExporter",
    options="families.toy_family:ToyOptions",
)
