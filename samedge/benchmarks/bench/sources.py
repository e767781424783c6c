"""Models of the table and the source of their weights: local, downloaded, or random from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samedge.errors import DownloadError, StorageError, UsageError
from samedge.models.checkpoints.weights import BUNDLED_WEIGHTS, KNOWN_WEIGHTS, SEEDED, find_checkpoint, weights_at_hand


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model to measure; `source` is a path, known name, or "seeded:NAME", `note` the reason for random weights."""

    name: str
    source: str
    note: str = ""

    @property
    def seeded(self) -> bool:
        """True if the weights are random."""
        return self.source.startswith(SEEDED)


DEFAULT_ROWS: Final = {
    "SAM-b": ("sam_b.pt", "sam_vit_b_01ec64.pth"),
    "MobileSAM": ("mobile_sam.pt",),
    "FastSAM-s": ("FastSAM-s.pt",),
    "YOLOv8n-seg": ("yolov8n-seg.pt",),
    "sam_demo": ("sam_demo",),
}
"""Rows measured by default, with the names of their released weights; the first local file is used.

Nothing is downloaded for them: a benchmark without arguments must not fetch 375 MB.
"""


def model_sources(models: Sequence[str]) -> tuple[ModelSource, ...]:
    """Return the sources of the given models; of `DEFAULT_ROWS` if none are given.

    Local files are used in place. Released weights given as a file name are downloaded if missing; if that fails, and
    for rows known by name, random weights of the same architecture replace them.

    Raises:
        StorageError: A model is neither a file nor a known name.
        UsageError: Two models have the same name.
    """
    chosen = tuple(_source_of(model) for model in models) or tuple(_local_source(name) for name in DEFAULT_ROWS)
    names = [row.name for row in chosen]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two models are called {name!r}", cure="Name each once, or give their files other names")
    return chosen


def architecture_of(file: str) -> str | None:
    """Return the architecture of released weights from the name of their file, or None."""
    name = Path(file).name.lower()
    known = (weights for file, weights in KNOWN_WEIGHTS.items() if file.lower() == name)
    return next((weights.architecture or None for weights in known), None)


def _source_of(model: str) -> ModelSource:
    for name in DEFAULT_ROWS:
        if model.lower() == name.lower() and not Path(model).exists():
            return _local_source(name)
    if model.startswith(SEEDED):
        return ModelSource(model, model, "random weights requested")
    if Path(model).exists() or model in BUNDLED_WEIGHTS:
        return ModelSource(Path(model).name or model, model)  # a whole path would not fit into a table
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


def _local_source(name: str) -> ModelSource:
    files = DEFAULT_ROWS[name]
    for file in files:
        if weights_at_hand(file) is not None:
            return ModelSource(name, file)
    architecture = architecture_of(files[0])
    if architecture is None:
        raise StorageError("the weights bundled with samedge are missing", where=files[0], cure="Reinstall samedge")
    known = " or ".join(file for file in files if file in KNOWN_WEIGHTS) or files[0]
    return ModelSource(name, SEEDED + architecture, f"no weights: {known} is not on this machine")
