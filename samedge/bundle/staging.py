"""Folders and files that appear whole or not at all.

A bundle is written under a temporary name beside its target and renamed when it is complete: a process that is killed
leaves nothing that loads, and two that export at once do not see each other's halves.
"""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from samedge.bundle.archive import ARCHIVE_SUFFIX, TEMPORARY_PREFIX
from samedge.bundle.manifest import MANIFEST_NAME
from samedge.errors import ExportError, StorageError, storage_errors


@contextmanager
def staged_bundle(target: Path) -> Iterator[Path]:
    """Give a folder to fill with a bundle, and put it at its target when the block ends well.

    Args:
        target: The bundle's folder, or its file if the name ends with ``.samedge``. An older bundle there is replaced.

    Raises:
        ExportError: Something that is not a bundle is in the way.
        StorageError: The file system said no.
    """
    check_target(target)
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    stage = target.parent / f"{TEMPORARY_PREFIX}{target.name}-{os.getpid()}-{uuid4().hex[:8]}"
    try:
        with storage_errors(target):
            stage.mkdir()
            yield stage
            if target.suffix == ARCHIVE_SUFFIX:
                _archive(stage, target)
            else:
                _replace(stage, target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def check_target(target: Path) -> None:
    """Refuse a target that holds something other than a bundle, before any work is done.

    Raises:
        ExportError: Something that is not a bundle is in the way.
    """
    if target.suffix == ARCHIVE_SUFFIX:
        if target.is_dir():
            raise ExportError("there is a folder of this name", where=target, cure="Choose another output")
        return
    if target.is_file():
        raise ExportError("there is a file of this name", where=target, cure="Choose another output folder")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST_NAME).is_file():
        raise ExportError(
            "the folder is not empty and holds no bundle, so it is not replaced",
            where=target,
            cure="Choose another output folder",
        )


def remove_leftovers(target: Path) -> None:
    """Remove what exports to this target left behind when they were killed."""
    for stage in target.parent.glob(f"{TEMPORARY_PREFIX}{target.name}-*"):
        owner = stage.name.rsplit("-", 2)[1]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(stage, ignore_errors=True)


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # there, signal 0 is a console event and not a question
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _replace(stage: Path, target: Path) -> None:
    """Rename the stage to the target; an older bundle is moved away first and removed after."""
    old = target.parent / f"{stage.name}-old-{os.getpid()}-{uuid4().hex[:8]}"
    for _ in range(100):
        try:
            stage.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        with suppress(FileNotFoundError):  # another process moved it away at the same moment
            target.rename(old)
            shutil.rmtree(old, ignore_errors=True)
    raise StorageError("other processes keep writing here", where=target, cure="Choose another output folder")


def _archive(stage: Path, target: Path) -> None:
    """Pack the stage into one uncompressed zip file and rename it to the target."""
    packed = stage / f"bundle{ARCHIVE_SUFFIX}"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for path in sorted(stage.iterdir()):
            if path != packed:
                archive.write(path, path.name)
    packed.replace(target)
