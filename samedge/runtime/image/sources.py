"""What to segment, as users say it: a file, a folder, a pattern, an array, a PIL image, or a list of these."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from samedge.errors import ImageError, storage_errors
from samedge.runtime.image.read import ImageSource

IMAGE_SUFFIXES: Final = (
    ".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""What counts as an image in a folder."""

Source: TypeAlias = "ImageSource | Sequence[ImageSource]"


def iter_sources(source: Source) -> Iterator[ImageSource]:
    """Yield single images: paths where paths were given, files of folders in natural order, arrays as they are.

    Raises:
        ImageError: A folder or a pattern has no image.
        StorageError: A folder cannot be read.
    """
    if isinstance(source, (list, tuple)):
        for item in source:
            yield from iter_sources(item)
    elif isinstance(source, (str, os.PathLike)):
        yield from find_images(Path(source))
    else:
        yield source  # type: ignore[misc]  # a str is a Sequence as well; it was taken above


def find_images(path: Path) -> list[Path]:
    """Return the images that a path stands for: itself, a folder's (not those of its subfolders), or a pattern's.

    They come in natural order: frame2 before frame10.

    Raises:
        ImageError: There are none.
        StorageError: The folder cannot be read.
    """
    with storage_errors(path, "read"):
        if path.is_dir():
            found = [entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
        elif not path.exists() and any(sign in str(path) for sign in "*?["):
            anchor = Path(path.anchor)
            try:
                found = [entry for entry in anchor.glob(str(path.relative_to(anchor))) if entry.is_file()]
            except ValueError as error:
                raise ImageError(f"the pattern cannot be read: {error}", where=path, cure="Write ** alone") from error
        elif path.exists():
            return [path]
        else:
            raise ImageError("there is no such image", where=path, cure="Check the path")
    if not found:
        raise ImageError("there are no images here", where=path, cure=f"Looked for {', '.join(IMAGE_SUFFIXES)}")
    return sorted(found, key=natural_order)


def distinct_stems(paths: Sequence[Path]) -> list[str]:
    """Return a name for what is made of each path, without suffix, that no other path gets.

    The stem; with its suffix where others have the same stem (a.jpg beside a.png); numbered where they share that too.
    Names that differ in case alone count as the same, as some file systems take them.
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
    """Return a key for sorting: numbers by their value, names that differ in leading zeros alone by their text."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), "") if at % 2 else (-1, part) for at, part in enumerate(parts)], str(path)
