"""Atomic writes of files and folders.

Each is written under a temporary name beside its target and renamed once complete: a killed process leaves nothing that
could be mistaken for the target, and concurrent writers never see each other's partial output.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from samedge.errors import StorageError
from samedge.storage.files import storage_errors

TEMPORARY_PREFIX: Final = ".tmp-"
_ABANDONED_SECONDS: Final = 24 * 3600
_ATTEMPTS: Final = 100


@contextmanager
def temporary_file(folder: Path, name: str) -> Iterator[Path]:
    """Yield a path in a folder for a temporary file, which is removed if still there when the block ends.

    Raises:
        StorageError: The folder cannot be created.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = _temporary(folder / name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """Yield a path to write to, which replaces the target on success and is removed on failure.

    Raises:
        StorageError: The target cannot be written.
    """
    with temporary_file(target.parent, target.name) as stage:
        yield stage
        with storage_errors(target):
            stage.replace(target)


def write_whole(target: Path, data: bytes) -> None:
    """Write a file, replacing an older one atomically.

    Raises:
        StorageError: The file cannot be written.
    """
    with staged_file(target) as stage, storage_errors(target):
        stage.write_bytes(data)


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside a target, which is removed when the block ends.

    Raises:
        StorageError: The folder cannot be created.
    """
    stage = _temporary(target)
    with storage_errors(target):
        stage.mkdir(parents=True)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def staged_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a new folder to fill, which becomes the target on success and is removed on failure.

    Args:
        target: The folder to create.
        replace: Replace an older folder at the target. False keeps it, for folders named after their content: another
            process has created the same one meanwhile.

    Raises:
        StorageError: The target cannot be written.
    """
    with temporary_folder(target) as stage:
        yield stage
        with storage_errors(target):
            _rename(stage, target, replace=replace)


def remove_leftovers(target: Path) -> None:
    """Remove the leftovers of killed writers of this target."""
    for stage in target.parent.glob(f"{TEMPORARY_PREFIX}{target.name}-*"):
        owner = stage.name.rsplit("-", 2)[1]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(stage, ignore_errors=True)


def abandoned(folder: Path, pattern: str = f"{TEMPORARY_PREFIX}*") -> Iterator[Path]:
    """Yield matching files in a folder that have been untouched for a day.

    Process numbers are no criterion there: containers sharing a cache each count their own.
    """
    for path in folder.glob(pattern):
        with suppress(OSError):  # another process has just removed it
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                yield path


def _temporary(target: Path) -> Path:
    return target.with_name(f"{TEMPORARY_PREFIX}{target.name}-{os.getpid()}-{uuid4().hex[:8]}")


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # on Windows, signal 0 is a console event, not a probe
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _rename(stage: Path, target: Path, *, replace: bool) -> None:
    """Rename a folder to its target, moving an older one away first and removing it afterwards."""
    for _ in range(_ATTEMPTS):
        try:
            stage.rename(target)
        except OSError as error:
            in_the_way = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if not in_the_way and not (error.errno == errno.EACCES and target.is_dir()):  # EACCES: Windows
                raise
        else:
            return
        if not replace and target.is_dir():
            return
        old = _temporary(stage)
        with suppress(FileNotFoundError):  # another process moved it away at the same moment
            target.rename(old)
            shutil.rmtree(old, ignore_errors=True)
    raise StorageError("other processes keep writing this folder", where=target, cure="Choose another output folder")
