"""Memory of the successful rungs for each model, TensorRT and GPU, where the next build starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from samedge.storage.atomic import write_whole
from samedge.storage.files import cache_folder


@dataclass(frozen=True, slots=True)
class RungKey:
    """Key of the remembered rungs.

    Attributes:
        checkpoint_sha256: Of the model's weights.
        variant: Of the encoder's graph.
        precision: What was asked for.
        flavour: "tensorrt" or "tensorrt-rtx".
        version: Of TensorRT.
        gpu: Name of the GPU.
        compute_capability: Of the GPU.
    """

    checkpoint_sha256: str
    variant: str
    precision: str
    flavour: str
    version: str
    gpu: str
    compute_capability: str

    @property
    def path(self) -> Path:
        """The file that remembers."""
        text = json.dumps(asdict(self), sort_keys=True)
        return cache_folder() / "rungs" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def remembered_rungs(key: RungKey) -> tuple[str, ...] | None:
    """Return the rungs that served, of encoder and decoder or of the one engine; None if none are remembered."""
    try:
        values = json.loads(key.path.read_bytes())
        if values["key"] != asdict(key):
            return None
        return tuple(str(rung) for rung in values["rungs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # what is damaged is as good as not there: the ladder is walked again


def remember_rungs(key: RungKey, rungs: Sequence[str], attempts: Sequence[str]) -> None:
    """Write down which rungs served, and what was tried before.

    Raises:
        StorageError: The file system said no.
    """
    values = {"key": asdict(key), "rungs": list(rungs), "attempts": list(attempts)}
    write_whole(key.path, json.dumps(values, indent=1).encode())
