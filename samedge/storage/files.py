"""The user's cache folder, digests of files, and errors of the file system."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from samedge.errors import StorageError

CACHE_VARIABLE: Final = "SAMEDGE_CACHE"
ENGINE_STORE: Final = "engines"
"""Folder of the engine store in the cache."""
_CHUNK: Final = 1 << 20
_STORAGE_CURES: Final = {
    errno.ENOSPC: "Free some space, or choose another folder",
    errno.EDQUOT: "The disk quota is used up: free some space, or choose another folder",
    errno.EACCES: "Check the permissions, or choose another folder",
    errno.EPERM: "Check the permissions, or choose another folder",
    errno.EROFS: "The file system is read-only: choose another folder",
    errno.ENOENT: "Check the path",
    errno.EEXIST: "Something else is in the way: choose another path",
    errno.ENOTDIR: "A file stands where a folder is needed: choose another path",
    errno.EISDIR: "A folder stands where a file is needed: choose another path",
    errno.ENAMETOOLONG: "Choose a shorter name",
}


@contextmanager
def storage_errors(path: Path | str, doing: str = "write") -> Iterator[None]:
    """Turn any `OSError` of the block into a `StorageError` with a cure.

    Args:
        path: The file or folder named in the message.
        doing: The verb of the message, such as "write" or "read".

    Raises:
        StorageError: The block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        cure = _STORAGE_CURES.get(error.errno or 0, "Check the path and the disk")
        reason = error.strerror or str(error)
        raise StorageError(f"cannot {doing} this: {reason}", where=path, cure=cure, errno=error.errno) from error


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


def cache_folder() -> Path:
    """Return the folder for everything that samedge can recreate or download again, which may not exist yet.

    ``$SAMEDGE_CACHE`` if set, otherwise ``samedge`` in the platform's cache folder: ``$XDG_CACHE_HOME`` or
    ``~/.cache``, ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows.

    Raises:
        StorageError: The user has no home folder, and the variable is not set.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    import platformdirs

    try:
        folder = platformdirs.user_cache_path("samedge", appauthor=False, opinion=False)
        if sys.platform == "darwin":  # later versions of platformdirs follow $XDG_CACHE_HOME there, earlier ones do not
            folder = Path("~/Library/Caches/samedge").expanduser()
        if folder.is_absolute():
            return folder
        reason = "the home folder is unknown"
    except RuntimeError as error:
        reason = str(error)
    raise StorageError(f"no cache folder is available: {reason}", cure=f"Set {CACHE_VARIABLE} to a folder")
