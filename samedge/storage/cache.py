"""The user's cache folder, for everything that samedge can recreate or download again."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from samedge.errors import StorageError

CACHE_VARIABLE: Final = "SAMEDGE_CACHE"


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet.

    ``$SAMEDGE_CACHE`` if set, otherwise ``samedge`` in the platform's cache folder: ``$XDG_CACHE_HOME`` or
    ``~/.cache``, ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows.

    Raises:
        StorageError: The user has no home folder, and the variable is not set.
    """
    import platformdirs

    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
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
