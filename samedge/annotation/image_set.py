"""The images to annotate, each with a label path of its own.

Labels mirror the folders of the images, so images of the same name in different folders do not share labels. Folders
are listed one at a time, so no more than the names in one folder are in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from samedge.errors import ImageError, StorageError, UsageError
from samedge.runtime.image.sources import (
    IMAGE_SUFFIXES,
    distinct_stems,
    find_images,
    fixed_part,
    is_image_name,
    is_litter,
    natural_order,
    require_image_files,
    without_litter,
)
from samedge.storage.files import storage_errors


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """An image of a set.

    Attributes:
        path: The image file.
        name: Path below the set's root, with slashes; bytes that are not valid text are escaped.
        label: Path of the labels below the output folder, in the same form.
    """

    path: Path
    name: str
    label: str


class ImageSet:
    """The images of a file, a folder, a pattern, or a list of these.

    Subfolders are included if `recursive`, except hidden ones and links. Names are relative to `root`; labels go to
    `default_output` by default.
    """

    def __init__(self, data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, recursive: bool) -> None:
        self._recursive = recursive
        self._paths: list[Path] | None = None
        if isinstance(data, (list, tuple)):
            paths = without_litter(data)
            self._paths = [image for path in paths for image in _images_of(_path(path), recursive=recursive)]
            if not self._paths:
                raise ImageError("the list contains no images", cure="Give at least one image, folder or pattern")
            self._paths = sorted({Path(os.path.abspath(path)) for path in self._paths}, key=natural_order)  # noqa: PTH100
            self.root = Path(os.path.commonpath([path.parent for path in self._paths]))
            named = self.root
        else:
            given = Path(os.path.abspath(_path(data)))  # noqa: PTH100 - does not resolve links
            if given.is_dir():
                self.root, named = given, given
            else:
                self._paths = find_images(given)
                whole = not given.exists()
                self.root = fixed_part(given) if whole else given.parent
                named = self.root if whole else given
        self.default_output = named.parent / f"{named.stem}_auto_annotate_labels"

    def count(self) -> int:
        """Return the current number of images; ImageError if there are none."""
        number = sum(len(paths) for paths in self._folders())
        if not number:
            cure = f"Give a folder with files of {', '.join(IMAGE_SUFFIXES)}"
            raise ImageError("no images found", where=self.root, cure=cure)
        return number

    def __iter__(self) -> Iterator[ImageEntry]:
        """Yield the images, folder by folder, in natural order."""
        for paths in self._folders():
            for path, stem in zip(paths, distinct_stems(paths), strict=True):
                name = path.relative_to(self.root)
                yield ImageEntry(path, _as_text(name), _as_text(name.parent / f"{stem}.txt"))

    def _folders(self) -> Iterator[list[Path]]:
        """Yield the images of each folder."""
        if self._paths is not None:
            ordered = sorted(self._paths, key=lambda path: (natural_order(path.parent), natural_order(path)))
            yield from (list(group) for _, group in groupby(ordered, key=lambda path: path.parent))
            return
        with storage_errors(self.root, "read"):
            self.root.stat()
        for folder, subfolders, files in os.walk(self.root, onerror=_refused):
            subfolders[:] = sorted(
                (name for name in subfolders if self._recursive and not is_litter(name)),
                key=lambda name: natural_order(Path(name)),
            )
            paths = [Path(folder, name) for name in files if is_image_name(name)]
            yield sorted(paths, key=natural_order)


def _path(path: object) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(
            f"a {type(path).__name__} has no file name for its labels",
            where="data",
            cure="Give an image file, a folder, a pattern, or a list of these",
        )
    require_image_files(path)  # before a path of it drops a slash
    return Path(path)


def _as_text(path: Path) -> str:
    """Return the path as valid text for JSON: file names may be arbitrary bytes."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def _images_of(path: Path, *, recursive: bool) -> list[Path]:
    return [entry.path for entry in ImageSet(path, recursive=recursive)] if path.is_dir() else find_images(path)


def _refused(error: OSError) -> None:
    raise StorageError(
        f"cannot read the folder: {error.strerror or error}", where=error.filename, cure="Check the permissions"
    ) from error
