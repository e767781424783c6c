"""From what the user names to a model of any family that samedge knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

from torch import Tensor, nn

from samedge.families import DEFAULT, Family, families
from samedge.models.checkpoints.download import DownloadProgress
from samedge.models.checkpoints.read import Checkpoint, ReadOptions, read_checkpoint
from samedge.models.checkpoints.weights import SEEDED, find_checkpoint


class Loaded(Protocol):
    """A model in evaluation mode, and where it came from."""

    @property
    def family(self) -> str:
        """Name of its line in `samedge.families`."""
        ...

    @property
    def model(self) -> nn.Module:
        """In evaluation mode."""
        ...

    @property
    def name(self) -> str:
        """Of its architecture."""
        ...

    @property
    def licence(self) -> str:
        """SPDX name of the weights' licence, or a sentence that says why it is not known."""
        ...

    @property
    def checkpoint(self) -> str:
        """File name of the checkpoint, or the source of seeded weights."""
        ...

    @property
    def sha256(self) -> str:
        """SHA-256 of the checkpoint in hex; for seeded weights, of their recipe."""
        ...

    @property
    def seeded(self) -> bool:
        """True if the weights are random numbers: its answers mean nothing."""
        ...


class ModelLoader(Protocol):
    """From a checkpoint to a model of one family."""

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Return whether the keys are those of this family; the sizes may still be none that it has."""
        ...

    def load(self, checkpoint: Checkpoint, image_size: int | tuple[int, int] | None) -> Loaded:
        """Return the model of a checkpoint.

        Args:
            checkpoint: What `read_checkpoint` returned.
            image_size: Side of the square input, or (height, width), px, where the weights do not tell it.

        Raises:
            CheckpointError: A weight cannot be used, or the keys and shapes are of no model of this family.
            UsageError: The image size does not fit the model.
        """
        ...

    def has_seeded(self, name: str) -> bool:
        """Return whether a name of random weights is meant for this family; there may be none of it."""
        ...

    def load_seeded(self, source: str, image_size: int | tuple[int, int] | None) -> Loaded:
        """Return the model of a source "seeded:NAME".

        Raises:
            UsageError: There are no such weights, or the image size does not fit the model.
        """
        ...

    def seeded_state(self, name: str) -> Mapping[str, Tensor]:
        """Return random weights under the keys that the family's own package has.

        Raises:
            UsageError: There are none of this name.
        """
        ...


def loader_of(family: Family) -> ModelLoader:
    """Import the loader of a family."""
    return cast("ModelLoader", family.make(family.loader))


def seeded_loader(name: str) -> ModelLoader:
    """Return the loader that random weights of a name are meant for; the default family's if it is nobody's."""
    loaders = map(loader_of, families())
    return next((loader for loader in loaders if loader.has_seeded(name)), loader_of(DEFAULT))


def load_any(
    source: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    progress: DownloadProgress | None = None,
    reading: ReadOptions | None = None,
) -> Loaded:
    """Return the model of a checkpoint; which family it is of follows from its keys alone.

    Args:
        source: Path of a checkpoint; or, where there is no such file, the name of released weights
            (`samedge.models.checkpoints.weights.KNOWN_WEIGHTS`), which are downloaded once; or "seeded:NAME".
        image_size: Side of the square input, or (height, width), px, where the weights do not tell it.
        progress: Called with the bytes that are here and their total, if something is downloaded.
        reading: What a file may leave open.

    Raises:
        CheckpointError: The checkpoint cannot be read, or is of no known architecture.
        DownloadError: A known name could not be fetched.
        StorageError: There is no such file, or it cannot be read.
        UsageError: There are no such seeded weights, or the image size does not fit the model.
    """
    text = str(source)
    if text.startswith(SEEDED):
        return seeded_loader(text.removeprefix(SEEDED)).load_seeded(text, image_size)
    checkpoint = read_checkpoint(find_checkpoint(source, progress=progress), reading or ReadOptions())
    loaders = map(loader_of, families())
    loader = next((loader for loader in loaders if loader.recognises(checkpoint)), loader_of(DEFAULT))
    return loader.load(checkpoint, image_size)
