"""Which models stand in the table, and where their weights come from: at hand, fetched, or random from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samedge.errors import DownloadError, StorageError, UsageError
from samedge.models.checkpoints.weights import BUNDLED_WEIGHTS, KNOWN_WEIGHTS, SEEDED, find_checkpoint, weights_at_hand


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A row to come.

    Attributes:
        name: What the row is called.
        source: What is loaded: a path, a known name, or "seeded:NAME".
        note: Why it is not what was asked for; empty if it is.
    """

    name: str
    source: str
    note: str = ""

    @property
    def seeded(self) -> bool:
        """Whether the weights are random."""
        return self.source.startswith(SEEDED)


@dataclass(frozen=True, slots=True)
class KnownRow:
    """A row by name.

    Attributes:
        name: As the table shows it.
        files: Names of its released weights; the first that is at hand counts.
    """

    name: str
    files: tuple[str, ...]


DEFAULT_ROWS: Final = (
    KnownRow("SAM-b", ("sam_b.pt", "sam_vit_b_01ec64.pth")),
    KnownRow("MobileSAM", ("mobile_sam.pt",)),
    KnownRow("FastSAM-s", ("FastSAM-s.pt",)),
    KnownRow("YOLOv8n-seg", ("yolov8n-seg.pt",)),
    KnownRow("sam_demo", ("sam_demo",)),
)
"""Shown where no model is named. Nothing is downloaded for them: a benchmark without arguments fetches no 375 MB."""


def model_sources(models: Sequence[str]) -> tuple[ModelSource, ...]:
    """Return the rows for what a user named; `DEFAULT_ROWS` for nothing.

    A file is taken where it lies. Released weights that are not on this machine are fetched if they were named as a
    file; where that fails, and for rows that are known by name, random weights of the same architecture take their
    place.

    Args:
        models: Bundles, graphs, checkpoints, known names, names of `DEFAULT_ROWS`, or "seeded:NAME".

    Raises:
        StorageError: There is no such file, and no such name.
        UsageError: Two are the same.
    """
    chosen = tuple(_source_of(model) for model in models) or tuple(_at_hand(row) for row in DEFAULT_ROWS)
    names = [row.name for row in chosen]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two models are called {name!r}", cure="Name each once, or give their files other names")
    return chosen


def architecture_of(file: str) -> str | None:
    """Return the architecture of released weights by the name of their file, or None."""
    name = Path(file).name.lower()
    known = (weights for file, weights in KNOWN_WEIGHTS.items() if file.lower() == name)
    return next((weights.architecture or None for weights in known), None)


def _source_of(model: str) -> ModelSource:
    for row in DEFAULT_ROWS:
        if model.lower() == row.name.lower() and not Path(model).exists():
            return _at_hand(row)
    if model.startswith(SEEDED):
        return ModelSource(model, model, "asked for random weights")
    if Path(model).exists() or model in BUNDLED_WEIGHTS:
        return ModelSource(_shown_name(model), model)
    architecture = architecture_of(model)
    if weights_at_hand(model) is not None:
        return ModelSource(model, model)
    try:
        return ModelSource(model, str(find_checkpoint(model)))
    except DownloadError as error:
        if architecture is None:
            raise
        return ModelSource(model, SEEDED + architecture, f"no weights: {error.what}")
    except StorageError:
        if architecture is None or Path(model).name != model:
            raise
        return ModelSource(model, SEEDED + architecture, f"no weights: {model} is not on this machine")


def _at_hand(row: KnownRow) -> ModelSource:
    for file in row.files:
        if weights_at_hand(file) is not None:
            return ModelSource(row.name, file)
    architecture = architecture_of(row.files[0])
    if architecture is None:
        raise StorageError(
            "these weights come with samedge and are missing", where=row.files[0], cure="Install it anew"
        )
    known = " or ".join(file for file in row.files if file in KNOWN_WEIGHTS) or row.files[0]
    return ModelSource(row.name, SEEDED + architecture, f"no weights: {known} is not on this machine")


def _shown_name(model: str) -> str:
    """A file's or folder's name: paths are long, and tables narrow."""
    return Path(model).name or model
