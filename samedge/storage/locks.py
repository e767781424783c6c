"""Locks between processes. The system releases the lock of a process that dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from samedge.errors import SamedgeError, storage_errors


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Wait for a lock that other processes respect, and hold it.

    Args:
        path: The lock's file; it is left there.

    Raises:
        StorageError: The file system has no locks, or the file cannot be written.
    """
    import filelock  # imports asyncio: too much for every start of the package

    with storage_errors(path, "lock"):
        file = path.open("ab")
    with file:
        with storage_errors(path, "lock"):
            filelock.lock_descriptor(file.fileno())
        yield


def claim(file: BinaryIO, busy: SamedgeError) -> None:
    """Make this process the only one that uses an open file, until it is closed.

    On a file system without locks every process may use it.

    Args:
        file: An open file.
        busy: Raised if another process has claimed it.

    Raises:
        SamedgeError: `busy`.
    """
    import filelock

    with suppress(OSError):
        if not filelock.lock_descriptor(file.fileno(), blocking=False):
            raise busy
