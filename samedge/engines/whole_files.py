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
def staged_file(target: Path) -> Iterator[Path]:
    """Gives a path to write to, and renames it to its target when the block ends well; otherwise it is removed.

    Raises:
        StorageError: The file system said no.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    stage = target.parent / f"{TEMPORARY_PREFIX}{target.name}-{os.getpid()}-{uuid4().hex[:8]}"
    try:
        yield stage
        with storage_errors(target):
            stage.replace(target)
    finally:
        stage.unlink(missing_ok=True)


def write_whole(target: Path, data: bytes) -> None:
    """Writes a file, replacing an older one at once.

    Raises:
        StorageError: The file system said no.
    """
    with staged_file(target) as stage, storage_errors(target):
        stage.write_bytes(data)
