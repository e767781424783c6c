"""Loading of models of any family."""

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
    """A model in evaluation mode, and its origin."""

    @property
    def family(self) -> str:
        """Name of its family in `samedge.families`."""
        ...

    @property
    def model(self) -> nn.Module:
        """The model, in evaluation mode."""
        ...

    @property
    def name(self) -> str:
        """Name of its architecture and size."""
        ...

    @property
    def licence(self) -> str:
        """SPDX name of the weights' licence, or a sentence that says why it is unknown."""
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
        """True if the weights are random, so that its output means nothing."""
        ...


class ModelLoader(Protocol):
    """Loading of checkpoints and random weights of one family."""

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Return True if the keys are those of this family, even in unknown sizes."""
        ...

    def load(self, checkpoint: Checkpoint, image_size: int | tuple[int, int] | None) -> Loaded:
        """Return the model of a checkpoint.

        Args:
            checkpoint: A checkpoint.
            image_size: Side of the square input, or (height, width), px, if the weights do not determine it.

        Raises:
            CheckpointError: A weight cannot be used, or the keys and shapes are those of no model of this family.
            UsageError: The image size does not fit the model.
        """
        ...

    def has_seeded(self, name: str) -> bool:
        """Return True if a name of random weights belongs to this family, even if it is unknown."""
        ...

    def load_seeded(self, source: str, image_size: int | tuple[int, int] | None) -> Loaded:
        """Return the model of a source "seeded:NAME".

        Raises:
            UsageError: The name is unknown, or the image size does not fit the model.
        """
        ...

    def seeded_state(self, name: str) -> Mapping[str, Tensor]:
        """Return random weights under the keys of the family's own package.

        Raises:
            UsageError: The name is unknown.
        """
        ...


def loader_of(family: Family) -> ModelLoader:
    """Import the loader of a family."""
    return cast("ModelLoader", family.make(family.loader))


def seeded_loader(name: str) -> ModelLoader:
    """Return the loader of random weights of a name; the default family's for an unknown name."""
    loaders = map(loader_of, families())
    return next((loader for loader in loaders if loader.has_seeded(name)), loader_of(DEFAULT))


def load_any(
    source: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    progress: DownloadProgress | None = None,
    reading: ReadOptions | None = None,
) -> Loaded:
    """Return the model of a checkpoint; its keys alone determine its family.

    Args:
        source: Path of a checkpoint; the name of released weights, downloaded once
            (`samedge.models.checkpoints.weights.KNOWN_WEIGHTS`), if there is no such file; or "seeded:NAME".
        image_size: Side of the square input, or (height, width), px, if the weights do not determine it.
        progress: Called with the downloaded bytes and their total.
        reading: Answers to what a file leaves open.

    Raises:
        CheckpointError: The checkpoint cannot be read, or its architecture is unknown.
        DownloadError: The download failed.
        StorageError: The file is missing or cannot be read.
        UsageError: The seeded weights are unknown, or the image size does not fit the model.
    """
    text = str(source)
    if text.startswith(SEEDED):
        return seeded_loader(text.removeprefix(SEEDED)).load_seeded(text, image_size)
    checkpoint = read_checkpoint(find_checkpoint(source, progress=progress), reading or ReadOptions())
    loaders = map(loader_of, families())
    loader = next((loader for loader in loaders if loader.recognises(checkpoint)), loader_of(DEFAULT))
    return loader.load(checkpoint, image_size)
