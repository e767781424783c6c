"""Where samedge keeps what it can make or fetch again: one folder for each user, or the one that the user names."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from samedge.errors import StorageError

CACHE_VARIABLE: Final = "SAMEDGE_CACHE"


def cache_folder() -> Path:
    """Return the cache folder; it need not exist yet.

    ``$SAMEDGE_CACHE`` if it is set, otherwise ``samedge`` in the system's place for caches: ``$XDG_CACHE_HOME`` or
    ``~/.cache``, ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows.

    Raises:
        StorageError: The user has no home folder, and none was named.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    if base and sys.platform != "darwin":
        return Path(base) / "samedge"
    places = {"win32": ("AppData", "Local"), "darwin": ("Library", "Caches")}
    try:
        return Path.home().joinpath(*places.get(sys.platform, (".cache",)), "samedge")
    except RuntimeError as error:
        raise StorageError(
            f"there is no place for a cache: {error}", cure=f"Set {CACHE_VARIABLE} to a folder"
        ) from error
