"""Loading of SAMs: from a file, a known name, or a seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from torch import Tensor

from samedge.errors import UsageError
from samedge.models.checkpoints.download import DownloadProgress
from samedge.models.checkpoints.read import Checkpoint, read_checkpoint
from samedge.models.checkpoints.weights import SEEDED, SEEDED_LICENCE, UNKNOWN_LICENCE, find_checkpoint, licence_of
from samedge.models.sam.encoders.families import known_configs
from samedge.models.sam.registry import assemble, recognise
from samedge.models.sam.sam import Sam
from samedge.models.sam.seeded import seeded_config, seeded_state

_PARTS: Final = ("image_encoder.", "mask_decoder.", "prompt_encoder.")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The `samedge.models.load.Loaded` of SAM.

    Attributes:
        name: Such as "sam_vit_b"; "sam_vit" or "tiny_vit_sam" for unknown sizes.
        notes: Sentences about what was assumed, dropped or merged when the checkpoint was read.
    """

    family: ClassVar[str] = "sam"
    model: Sam
    name: str
    licence: str
    checkpoint: str
    sha256: str
    seeded: bool
    notes: tuple[str, ...] = ()


class SamLoader:
    """The `samedge.models.load.ModelLoader` of SAM."""

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Return True if a key starts with the name of a part of SAM."""
        return any(key.startswith(_PARTS) for key in checkpoint.state)

    def load(self, checkpoint: Checkpoint, image_size: int | tuple[int, int] | None) -> LoadedModel:
        """Load a checkpoint; the image size must be one number."""
        return model_of(checkpoint, _side(image_size))

    def has_seeded(self, name: str) -> bool:
        """Return True for a named configuration."""
        return name in known_configs()

    def load_seeded(self, source: str, image_size: int | tuple[int, int] | None) -> LoadedModel:
        """Load a named configuration with random weights."""
        return _seeded(source, _side(image_size))

    def seeded_state(self, name: str) -> dict[str, Tensor]:
        """Return the weights as the reference package has them."""
        return seeded_state(seeded_config(name))


def load_model(
    source: str | Path, *, image_size: int | None = None, progress: DownloadProgress | None = None
) -> LoadedModel:
    """Return the model of a checkpoint.

    Args:
        source: Path of a checkpoint; the name of released weights, downloaded once
            (`samedge.models.checkpoints.weights.KNOWN_WEIGHTS`), if there is no such file; or "seeded:NAME".
        image_size: Side of the square input, px, for architectures whose weights do not determine it.
        progress: Called with the downloaded bytes and their total.

    Raises:
        CheckpointError: The checkpoint cannot be read, or its architecture is unknown.
        DownloadError: The download failed.
        StorageError: The file is missing or cannot be read.
        UsageError: The seeded weights are unknown, or the image size does not fit the model.
    """
    if str(source).startswith(SEEDED):
        return _seeded(str(source), image_size)
    return model_of(read_checkpoint(find_checkpoint(source, progress=progress)), image_size)


def model_of(checkpoint: Checkpoint, image_size: int | None = None) -> LoadedModel:
    """Return the model of a checkpoint; see `load_model` for the image size.

    Raises:
        UnknownArchitectureError: The keys and shapes are those of no known SAM.
        UsageError: The image size does not fit the model.
    """
    found = recognise(checkpoint, image_size)
    licence = licence_of(checkpoint.path, checkpoint.sha256)
    return LoadedModel(
        model=assemble(found),
        name=found.name,
        licence=licence or UNKNOWN_LICENCE,
        checkpoint=checkpoint.path.name,
        sha256=checkpoint.sha256,
        seeded=False,
        # Nothing is assumed of a released file.
        notes=(*checkpoint.notes, *(found.notes if licence is None else ())),
    )


def _side(image_size: int | tuple[int, int] | None) -> int | None:
    if isinstance(image_size, tuple):
        raise UsageError(f"the input of a SAM is square, not {image_size}", cure="Give one side in px")
    return image_size


def _seeded(source: str, image_size: int | None) -> LoadedModel:
    name = source.removeprefix(SEEDED)
    config = seeded_config(name)
    recipe = hashlib.sha256(source.encode()).hexdigest()
    checkpoint = Checkpoint(seeded_state(config), recipe, Path(source), {"image_size": str(config.encoder.image_size)})
    found = recognise(checkpoint, image_size)
    return LoadedModel(
        model=assemble(found), name=found.name, licence=SEEDED_LICENCE, checkpoint=source, sha256=recipe, seeded=True
    )
