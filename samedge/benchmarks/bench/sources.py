"""Models of the table and the source of their weights: local, downloaded, or random from a seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samedge.errors import DownloadError, StorageError, UsageError
from samedge.models.checkpoints.weights import BUNDLED_WEIGHTS, KNOWN_WEIGHTS, SEEDED, find_checkpoint, weights_at_hand

ARCHITECTURES: Final = {
    "sam_b.pt": "sam_vit_b",
    "sam_vit_b_01ec64.pth": "sam_vit_b",
    "sam_l.pt": "sam_vit_l",
    "sam_vit_l_0b3195.pth": "sam_vit_l",
    "sam_h.pt": "sam_vit_h",
    "sam_vit_h_4b8939.pth": "sam_vit_h",
    "mobile_sam.pt": "mobile_sam",
}
"""Architectures of released files, for random weights in their place; YOLO and FastSAM files carry it in the name."""
_YOLO: Final = re.compile(r"(yolov8[nsmlx](?:-seg)?|fastsam-[sx])\.pt", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model to measure.

    Attributes:
        name: Name of the row.
        source: The weights: a path, a known name, or "seeded:NAME".
        note: Reason for random weights; empty for real ones.
    """

    name: str
    source: str
    note: str = ""

    @property
    def seeded(self) -> bool:
        """True if the weights are random."""
        return self.source.startswith(SEEDED)


@dataclass(frozen=True, slots=True)
class KnownRow:
    """A row known by name.

    Attributes:
        name: Name in the table.
        files: Names of its released weights; the first local one is used.
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
"""Rows measured by default. Nothing is downloaded for them: a benchmark without arguments must not fetch 375 MB."""


def model_sources(models: Sequence[str]) -> tuple[ModelSource, ...]:
    """Return the sources of the given models; of `DEFAULT_ROWS` if none are given.

    Local files are used in place. Released weights given as a file name are downloaded if missing; if that fails, and
    for rows known by name, random weights of the same architecture replace them.

    Args:
        models: Bundles, graphs, checkpoints, known names, names of `DEFAULT_ROWS`, or "seeded:NAME".

    Raises:
        StorageError: A model is neither a file nor a known name.
        UsageError: Two models have the same name.
    """
    chosen = tuple(_source_of(model) for model in models) or tuple(_at_hand(row) for row in DEFAULT_ROWS)
    names = [row.name for row in chosen]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two models are called {name!r}", cure="Name each once, or give their files other names")
    return chosen


def architecture_of(file: str) -> str | None:
    """Return the architecture of released weights from the name of their file, or None."""
    name = Path(file).name
    match = _YOLO.fullmatch(name)
    return match.group(1).lower() if match else ARCHITECTURES.get(name)


def _source_of(model: str) -> ModelSource:
    for row in DEFAULT_ROWS:
        if model.lower() == row.name.lower() and not Path(model).exists():
            return _at_hand(row)
    if model.startswith(SEEDED):
        return ModelSource(model, model, "random weights requested")
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
        raise StorageError("the weights bundled with samedge are missing", where=row.files[0], cure="Reinstall samedge")
    known = " or ".join(file for file in row.files if file in KNOWN_WEIGHTS) or row.files[0]
    return ModelSource(row.name, SEEDED + architecture, f"no weights: {known} is not on this machine")


def _shown_name(model: str) -> str:
    """Return the name of a file or folder without its path, which would not fit into a table."""
    return Path(model).name or model
