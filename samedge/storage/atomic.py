"""Files and folders that appear whole or not at all.

Each is written under a temporary name beside its target and renamed once it is complete: a process that is killed
leaves nothing that is taken for the target, and two that write at once do not see each other's halves.
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

from samedge.errors import StorageError, storage_errors

TEMPORARY_PREFIX: Final = ".tmp-"
_ABANDONED_SECONDS: Final = 24 * 3600
_ATTEMPTS: Final = 100


@contextmanager
def temporary_file(folder: Path, name: str) -> Iterator[Path]:
    """Give a path in a folder to write to; what is still there when the block ends is removed.

    Raises:
        StorageError: The folder cannot be made.
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
    """Give a path to write to, and rename it to its target when the block ends well; otherwise it is removed.

    Raises:
        StorageError: The file system refused.
    """
    with temporary_file(target.parent, target.name) as stage:
        yield stage
        with storage_errors(target):
            stage.replace(target)


def write_whole(target: Path, data: bytes) -> None:
    """Write a file, replacing an older one at once.

    Raises:
        StorageError: The file system refused.
    """
    with staged_file(target) as stage, storage_errors(target):
        stage.write_bytes(data)


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Give a new folder beside a target to write to; it is removed when the block ends.

    Raises:
        StorageError: The folder cannot be made.
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
    """Give a new folder to fill, and rename it to its target when the block ends well; otherwise it is removed.

    Args:
        target: The folder to make.
        replace: Replace an older folder at the target. False keeps it, for folders named after their content: another
            process has made the same one meanwhile.

    Raises:
        StorageError: The file system refused.
    """
    with temporary_folder(target) as stage:
        yield stage
        with storage_errors(target):
            _rename(stage, target, replace=replace)


def remove_leftovers(target: Path) -> None:
    """Remove what writers of this target left behind when they were killed."""
    for stage in target.parent.glob(f"{TEMPORARY_PREFIX}{target.name}-*"):
        owner = stage.name.rsplit("-", 2)[1]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(stage, ignore_errors=True)


def abandoned(folder: Path, pattern: str = f"{TEMPORARY_PREFIX}*") -> Iterator[Path]:
    """Yield what matches in a folder and has not been touched for a day.

    Process numbers do not tell there: containers that share a cache each count their own.
    """
    for path in folder.glob(pattern):
        with suppress(OSError):  # another process has just removed it
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                yield path


def _temporary(target: Path) -> Path:
    return target.with_name(f"{TEMPORARY_PREFIX}{target.name}-{os.getpid()}-{uuid4().hex[:8]}")


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


def _rename(stage: Path, target: Path, *, replace: bool) -> None:
    """Rename a folder to its target; an older one is moved away first and removed after."""
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
    raise StorageError("other processes keep writing here", where=target, cure="Choose another output folder")
