"""Bundles of checkpoints, exported into the cache once and found there afterwards without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from samedge.bundle.archive import open_bundle
from samedge.errors import BundleError
from samedge.export.bundle import export_bundle
from samedge.models.checkpoints.weights import SEEDED, checkpoint_digest, find_checkpoint
from samedge.options import ExportOptions
from samedge.storage.files import cache_folder, sha256_file
from samedge.types import Progress
from samedge.version import __version__

_CONFIGURATIONS: Final = ("adapter_config.json", "config.json")
"""Files beside a checkpoint that change how it is read."""


def cached_bundle(checkpoint: str | Path, *, image_size: int | None = None, progress: Progress | None = None) -> Path:
    """Return the native bundle of a checkpoint, exporting it into the cache if necessary.

    The key is the SHA-256 of the checkpoint and of the configurations beside it, and the package's version, so neither
    a retrained file of the same name nor another version's graphs are mistaken for it.

    Args:
        checkpoint: Path, known name, or "seeded:NAME".
        image_size: Side of the square input, px, for architectures whose weights do not determine it.
        progress: Called with the progress of an export.

    Raises:
        MissingExtraError: An export is necessary, but torch or onnx is not installed.
        SamedgeError: As `samedge.export_model`.
    """
    source = str(checkpoint)
    if source.startswith(SEEDED):
        name, digest = source, hashlib.sha256(source.encode()).hexdigest()
    else:
        path = find_checkpoint(checkpoint)
        name, digest = str(path), checkpoint_digest(path)
        beside = [config for config in map(path.with_name, _CONFIGURATIONS) if config.is_file()]
        if beside:
            digest = hashlib.sha256("".join([digest, *map(sha256_file, beside)]).encode()).hexdigest()
    stem = Path(name).stem.replace(":", "-")
    size = f"-{image_size}" if image_size else ""
    target = cache_folder() / "exports" / f"{stem}-{digest[:16]}{size}-{__version__}"
    try:
        open_bundle(target, force=True)
    except BundleError:
        export_bundle(name, ExportOptions(output=target, image_size=image_size), progress)
    return target
