"""Locks between processes. The system releases the lock of a process that dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from samedge.errors import SamedgeError
from samedge.storage.files import storage_errors


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Acquire a lock between processes, waiting for it if necessary.

    Args:
        path: The lock file, which is not removed.

    Raises:
        StorageError: The file system does not support locks, or the file cannot be written.
    """
    import filelock  # imports asyncio: too slow for every start of the package

    with storage_errors(path, "lock"):
        file = path.open("ab")
    with file:
        with storage_errors(path, "lock"):
            filelock.lock_descriptor(file.fileno())
        yield


def claim(file: BinaryIO, busy: SamedgeError) -> None:
    """Lock an open file for this process until it is closed.

    Without effect on a file system that does not support locks.

    Args:
        file: An open file.
        busy: Raised if another process has locked it.

    Raises:
        SamedgeError: `busy`.
    """
    import filelock

    with suppress(OSError):
        if not filelock.lock_descriptor(file.fileno(), blocking=False):
            raise busy
