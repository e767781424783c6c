"""Files of the engine store that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

from samedge.errors import storage_errors

TEMPORARY_PREFIX: Final = ".tmp-"


@contextmanager
def temporary_file(folder: Path, name: str) -> Iterator[Path]:
    """Give a path in a folder to write to; what is still there when the block ends is removed.

    Raises:
        StorageError: The folder cannot be made.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{TEMPORARY_PREFIX}{name}-{os.getpid()}-{uuid4().hex[:8]}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """Give a path to write to, and rename it to its target when the block ends well; otherwise it is removed.

    Raises:
        StorageError: The file system said no.
    """
    with temporary_file(target.parent, target.name) as stage:
        yield stage
        with storage_errors(target):
            stage.replace(target)


def write_whole(target: Path, data: bytes) -> None:
    """Write a file, replacing an older one at once.

    Raises:
        StorageError: The file system said no.
    """
    with staged_file(target) as stage, storage_errors(target):
        stage.write_bytes(data)
