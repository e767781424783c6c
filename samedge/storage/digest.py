"""SHA-256 of files, streamed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from samedge.errors import storage_errors

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex.

    Raises:
        StorageError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with storage_errors(path, "read"), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
