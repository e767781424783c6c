"""Atomic writing of bundles, as a folder or one ``.samedge`` file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samedge.bundle.archive import ARCHIVE_SUFFIX
from samedge.bundle.manifest import MANIFEST_NAME
from samedge.errors import ExportError
from samedge.storage.atomic import remove_leftovers, staged_folder, temporary_folder
from samedge.storage.files import storage_errors


@contextmanager
def staged_bundle(target: Path) -> Iterator[Path]:
    """Yield a folder to fill with a bundle, which becomes the target on success and replaces an older bundle.

    The target is a folder, or a file if its name ends with ``.samedge``.

    Raises:
        ExportError: Something other than a bundle is in the way.
        StorageError: The target cannot be written.
    """
    check_target(target)
    with storage_errors(target):
        remove_leftovers(target)
        if target.suffix == ARCHIVE_SUFFIX:
            with temporary_folder(target) as stage:
                yield stage
                _archive(stage, target)
        else:
            with staged_folder(target, replace=True) as stage:
                yield stage


def check_target(target: Path) -> None:
    """Raise ExportError if something other than a bundle is in the way, before any work is done."""
    if target.suffix == ARCHIVE_SUFFIX:
        if target.is_dir():
            raise ExportError("there is a folder of this name", where=target, cure="Choose another output")
        return
    if target.is_file():
        raise ExportError("there is a file of this name", where=target, cure="Choose another output folder")
    try:
        full = any(target.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # or replaced this moment by another process
        return
    if full and not (target / MANIFEST_NAME).is_file():
        raise ExportError(
            "the folder is not empty and holds no bundle, so it is not replaced",
            where=target,
            cure="Choose another output folder",
        )


def _archive(stage: Path, target: Path) -> None:
    """Pack the stage into one uncompressed zip file and rename it to the target."""
    packed = stage / f"bundle{ARCHIVE_SUFFIX}"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for path in sorted(stage.iterdir()):
            if path != packed:
                archive.write(path, path.name)
    packed.replace(target)
