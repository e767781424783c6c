"""Image sources: a file, a folder, a pattern, an array, a PIL image, or a list of these."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from samedge.errors import ImageError
from samedge.runtime.image.read import ImageSource
from samedge.storage.files import storage_errors

IMAGE_SUFFIXES: Final = (
    ".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Suffixes of images in a folder."""

_LITTER: Final = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"}
_WILDCARDS: Final = "*?["

Source: TypeAlias = "ImageSource | Sequence[ImageSource]"

_Item = TypeVar("_Item")


def iter_sources(source: Source) -> Iterator[ImageSource]:
    """Yield single images: paths, the files of folders in natural order, and arrays unchanged.

    In a list, files that systems leave behind (`is_litter`) are skipped.

    Raises:
        ImageError: A folder, pattern or list has no image.
        StorageError: A folder cannot be read.
    """
    if isinstance(source, (list, tuple)):
        images = list(without_litter(source))
        if source and not images:
            raise ImageError("no images in the list", cure="Give names that do not begin with a dot")
        for item in images:
            yield from iter_sources(item)
    elif isinstance(source, (str, os.PathLike)):
        yield from find_images(Path(source))
    else:
        yield source  # type: ignore[misc]  # a str is a Sequence too; it was handled above


def find_images(path: Path) -> list[Path]:
    """Return the images at a path: the file itself, a folder's files (without subfolders), or a pattern's matches.

    They come in natural order: frame2 before frame10. Hidden files and what systems leave behind (`is_litter`) are
    skipped, unless the path or the part of a pattern that matched them begins with a dot itself.

    Raises:
        ImageError: There are none.
        StorageError: The folder cannot be read.
    """
    with storage_errors(path, "read"):
        if path.is_dir():
            found = [entry for entry in path.iterdir() if is_image_name(entry.name) and entry.is_file()]
        elif not path.exists() and any(sign in str(path) for sign in _WILDCARDS):
            folder = fixed_part(path)
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            try:
                found = [entry for entry in folder.glob(str(path.relative_to(folder))) if entry.is_file()]
                if not hidden:
                    found = [entry for entry in found if not any(map(is_litter, entry.relative_to(folder).parts))]
            except ValueError as error:
                raise ImageError(f"the pattern cannot be read: {error}", where=path, cure="Write ** alone") from error
        elif path.exists():
            return [path]
        else:
            raise ImageError("image not found", where=path, cure="Check the path")
    if not found:
        raise ImageError(
            "no images found", where=path, cure=f"Give a folder or pattern with {', '.join(IMAGE_SUFFIXES)}"
        )
    return sorted(found, key=natural_order)


def is_image_name(name: str) -> bool:
    """Return True if a file of this name counts as an image of its folder."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not is_litter(name)


def is_litter(name: str) -> bool:
    """Return True if a file or folder of this name is hidden or left behind by an operating system.

    Examples are ``._photo.png`` and ``__MACOSX`` of macOS, ``Thumbs.db`` of Windows, and ``.ipynb_checkpoints``.
    """
    return name.startswith(".") or name.lower() in _LITTER


def without_litter(items: Iterable[_Item]) -> Iterator[_Item]:
    """Yield the items of a list except paths that are hidden or left behind by a system."""
    for item in items:
        if not (isinstance(item, (str, os.PathLike)) and is_litter(Path(item).name)):
            yield item


def fixed_part(pattern: Path) -> Path:
    """Return the folder before the first part of a path that has a wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.parts[len(fixed.parts) :]:
        if any(sign in part for sign in _WILDCARDS):
            break
        fixed /= part
    return fixed


def distinct_stems(paths: Sequence[Path]) -> list[str]:
    """Return a unique name without suffix for the outputs of each path.

    The stem; with its suffix if others share the stem (a.jpg beside a.png); numbered if they share that too. Names that
    differ only in case count as equal, as on some file systems.
    """
    shared = Counter(path.stem.casefold() for path in paths)
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        base = path.stem if shared[path.stem.casefold()] == 1 else path.name
        name, number = base, 2
        while name.casefold() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key: numbers by value, names that differ only in leading zeros by text."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), "") if at % 2 else (-1, part) for at, part in enumerate(parts)], str(path)
