"""Files in which a system tells of itself, below a root that a test can put elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SYSTEM_FILES: Final = Path("/")


def text_of(path: Path) -> str:
    """Returns what a file says, without what boards put around it; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except (OSError, ValueError):
        return ""
