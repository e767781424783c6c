"""Which images are annotated, and where the labels of each go: names that no two images share.

Labels mirror the folders of the images, so that images of one name in different folders keep labels of their own.
Folders are listed one at a time; what is kept of a data set is no more than the names in one folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from samedge.errors import ImageError, StorageError, UsageError, storage_errors
from samedge.runtime.image.sources import IMAGE_SUFFIXES, distinct_stems, find_images, natural_order

_WILDCARDS: Final = "*?["


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """An image of a set.

    Attributes:
        path: Where it is.
        name: Its path below the set's root, with slashes. Bytes that are no text are escaped.
        label: That of its labels below the output folder, likewise.
    """

    path: Path
    name: str
    label: str


class ImageSet:
    """The images that somebody named.

    Args:
        data: An image, a folder, a pattern, or a list of these.
        recursive: Take images of subfolders as well. Those whose names begin with a dot, and links to folders, are left
            out.

    Attributes:
        root: The folder that names are relative to.
        default_output: Where labels go if nobody says.

    Raises:
        UsageError: It is none of these.
        ImageError: There is no such image or folder.
    """

    def __init__(self, data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, recursive: bool) -> None:
        self._recursive = recursive
        self._paths: list[Path] | None = None
        if isinstance(data, (list, tuple)):
            self._paths = [image for path in data for image in _images_of(_path(path), recursive=recursive)]
            if not self._paths:
                raise ImageError("there are no images in this list", cure="Name some")
            self._paths = sorted({Path(os.path.abspath(path)) for path in self._paths}, key=natural_order)  # noqa: PTH100
            self.root = Path(os.path.commonpath([path.parent for path in self._paths]))
            named = self.root
        else:
            given = Path(os.path.abspath(_path(data)))  # noqa: PTH100 - links stay as they are named
            if given.is_dir():
                self.root, named = given, given
            else:
                self._paths = find_images(given)
                whole = not given.exists()
                self.root = _fixed_part(given) if whole else given.parent
                named = self.root if whole else given
        self.default_output = named.parent / f"{named.stem}_auto_annotate_labels"

    def count(self) -> int:
        """Return how many images there are now.

        Raises:
            ImageError: There are none.
            StorageError: A folder cannot be read.
        """
        number = sum(len(paths) for paths in self._folders())
        if not number:
            raise ImageError(
                "there are no images here", where=self.root, cure=f"Looked for {', '.join(IMAGE_SUFFIXES)}"
            )
        return number

    def __iter__(self) -> Iterator[ImageEntry]:
        """Yield the images, folder by folder, in natural order.

        Raises:
            StorageError: A folder cannot be read.
        """
        for paths in self._folders():
            for path, stem in zip(paths, distinct_stems(paths), strict=True):
                name = path.relative_to(self.root)
                yield ImageEntry(path, _as_text(name), _as_text(name.parent / f"{stem}.txt"))

    def _folders(self) -> Iterator[list[Path]]:
        """Yield the images of one folder after the other."""
        if self._paths is not None:
            ordered = sorted(self._paths, key=lambda path: (natural_order(path.parent), natural_order(path)))
            yield from (list(group) for _, group in groupby(ordered, key=lambda path: path.parent))
            return
        with storage_errors(self.root, "read"):
            self.root.stat()
        for folder, subfolders, files in os.walk(self.root, onerror=_refused):
            subfolders[:] = sorted(
                (name for name in subfolders if self._recursive and not name.startswith(".")),
                key=lambda name: natural_order(Path(name)),
            )
            paths = [Path(folder, name) for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES]
            yield sorted(paths, key=natural_order)


def _path(path: object) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(
            f"a {type(path).__name__} has no name to give its labels",
            where="data",
            cure="Give an image file, a folder, a pattern, or a list of these",
        )
    return Path(path)


def _as_text(path: Path) -> str:
    """File names are any bytes on some systems, and JSON is text."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def _images_of(path: Path, *, recursive: bool) -> list[Path]:
    return [entry.path for entry in ImageSet(path, recursive=recursive)] if path.is_dir() else find_images(path)


def _fixed_part(pattern: Path) -> Path:
    """Return the folder before the first part with a wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.parts[1:]:
        if any(sign in part for sign in _WILDCARDS):
            break
        fixed /= part
    return fixed


def _refused(error: OSError) -> None:
    raise StorageError(
        f"cannot read this: {error.strerror or error}", where=error.filename, cure="Check the permissions"
    ) from error
