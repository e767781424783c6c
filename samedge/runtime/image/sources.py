"""Image sources: files, folders, patterns, lists, addresses, videos, cameras, arrays, tensors, and lists of these."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias, TypeGuard, TypeVar
from urllib.parse import urlsplit

from samedge.errors import ImageError, UsageError
from samedge.runtime.image.addresses import address_of, address_suffix, fetch_image, without_login
from samedge.runtime.image.limits import VIDEO_SUFFIXES
from samedge.runtime.image.read import Frame, ImageSource, decode_image, is_tensor, tensor_images
from samedge.runtime.image.videos import is_video, video_frames
from samedge.storage.files import storage_errors

IMAGE_SUFFIXES: Final = (
    ".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Suffixes of images in a folder."""

_LITTER: Final = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"}
_WILDCARDS: Final = "*?["

Source: TypeAlias = "ImageSource | int | Sequence[ImageSource | int]"

_Item = TypeVar("_Item")
_LISTS: Final = (".txt", ".csv")
_MOST_LINES: Final = 10_000_000


def iter_sources(source: Source, stride: int = 1, *, buffered: bool = False) -> Iterator[ImageSource]:
    """Yield single images: paths, arrays and PIL images unchanged, all others as `Frame`.

    Args:
        source: As for `each_source`, a torch tensor ``(B, 3, H, W)``, or a list of these.
        stride: Of videos, only each n-th frame is yielded.
        buffered: Of cameras and network streams, yield every frame instead of the newest.

    Raises:
        ImageError: A folder, pattern or list has no image, or a video cannot be opened.
        StorageError: A folder or a list cannot be read.
        UsageError: The stride is less than 1.
    """
    for item in each_source(source):
        yield from images_of(item, stride, buffered=buffered)


def each_source(source: Source) -> Iterator[ImageSource | int]:
    """Yield the files that a source names, and all else unchanged.

    Args:
        source: A path; a folder, for its images and then its videos; a pattern; a list of paths in a ``.txt`` file,
            each relative to it or to the current folder; an address; "-" for standard input; the number of a camera;
            anything that is not text; or a list of these, in which files that systems leave behind (`is_litter`) are
            skipped.
    """
    if isinstance(source, (list, tuple)):
        items = list(without_litter(source))
        if source and not items:
            raise ImageError("no images in the list", cure="Give names that do not begin with a dot")
        for item in items:
            yield from each_source(item)
    elif not isinstance(source, (str, os.PathLike)):
        yield source  # type: ignore[misc]  # a str is a Sequence too; it is handled below
    elif (address := address_of(source)) is not None:
        yield address
    else:
        yield from _named(os.fspath(source))


def _named(name: str) -> Iterator[ImageSource | int]:
    path = Path(name)
    if path.suffix.lower() in _LISTS and path.is_file():
        yield from _listed(path)
    elif path.suffix.lower() == ".streams":
        cure = "Call the model once for each address, in a thread of its own"
        raise UsageError("several streams are not read at once", where=path, cure=cure)
    elif path.exists() or any(sign in name for sign in _WILDCARDS):
        yield from find_images(path, videos=True)
    elif name == "-":
        yield name
    elif name.isdecimal():
        yield int(name)
    else:
        if name.partition(" ")[0] == "screen":
            raise ImageError("the screen is not captured", where=name, cure="Give arrays, such as those of mss")
        yield from find_images(path)


def _listed(path: Path) -> Iterator[ImageSource | int]:
    """Yield the sources in a list, as Ultralytics reads it: a line each in ``.txt``, between commas in ``.csv``."""
    with storage_errors(path, "read"):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    names = [name.strip() for name in (text.splitlines() if path.suffix.lower() == ".txt" else text.split(","))]
    names = [name for name in names if name]
    if not names or "\0" in text or len(names) > _MOST_LINES:
        raise ImageError("this is not a list of images", where=path, cure="Write one path or address on each line")
    for name in names:
        if Path(name).suffix.lower() in _LISTS:
            raise ImageError(f"the list names another list, {name}", where=path, cure="Join the two")
        beside = path.parent / name
        relative = address_of(name) is None and not Path(name).exists()
        found = relative and (beside.exists() or any(sign in name for sign in _WILDCARDS))
        yield from each_source(beside if found else name)


def is_one_image(source: Source) -> TypeGuard[ImageSource]:
    """Return True if a source is certainly one image; one in a list or folder is detected later."""
    if not isinstance(source, (str, os.PathLike)):
        return not isinstance(source, (list, tuple, int)) and not is_tensor(source)
    path = Path(source)
    return address_of(source) is None and path.is_file() and path.suffix.lower() not in _LISTS and not is_video(path)


def images_of(item: ImageSource | int, stride: int = 1, *, buffered: bool = False) -> Iterator[ImageSource]:
    """Yield the images of one source of `each_source`: the frames of a video, or the image; arguments as there."""
    if isinstance(item, int):
        yield from video_frames(item, stride, live=True, buffered=buffered)
    elif is_tensor(item):
        yield from (Frame(image, f"image{number}.jpg") for number, image in enumerate(tensor_images(item)))
    elif not isinstance(item, (str, os.PathLike)):
        yield item
    elif (address := address_of(item)) is not None:
        named = address_suffix(address)
        data = None if named in VIDEO_SUFFIXES else fetch_image(address)
        if data is None:
            live = named not in VIDEO_SUFFIXES or not address.startswith("http")
            yield from video_frames(address, stride, live=live, buffered=buffered)
        else:
            yield Frame(decode_image(data, without_login(address)), without_login(address))
    elif item == "-" and not Path(item).exists():
        yield Frame(decode_image(sys.stdin.buffer.read(_MOST_BYTES), "standard input"), "stdin")
    elif is_video(Path(item)):
        yield from video_frames(os.fspath(item), stride)
    else:
        yield item


_MOST_BYTES: Final = 1 << 28
"""Read from standard input."""


def find_images(path: Path, *, videos: bool = False) -> list[Path]:
    """Return the images at a path: the file itself, a folder's files (without subfolders), or a pattern's matches.

    They come in natural order: frame2 before frame10; with `videos`, these follow. Hidden files and what systems leave
    behind (`is_litter`) are skipped, unless the path or the part of a pattern that matched them begins with a dot
    itself.

    Raises:
        ImageError: There are none; or, without `videos`, the path is that of a video or an address.
        StorageError: The folder cannot be read.
    """
    if not videos:
        require_image_files(path)
    known = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) if videos else IMAGE_SUFFIXES
    with storage_errors(path, "read"):
        if path.is_dir():
            found = [entry for entry in path.iterdir() if is_image_name(entry.name, known) and entry.is_file()]
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
    return sorted(found, key=lambda entry: (entry.suffix.lower() in VIDEO_SUFFIXES, natural_order(entry)))


def require_image_files(source: str | os.PathLike[str]) -> None:
    """Raise ImageError for an address or a video, where only files of images are read."""
    path, address = Path(source), address_of(source)
    if address is not None or (path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()):
        cure = "Download its images, or extract its frames: ffmpeg -i VIDEO frames/%06d.jpg"
        raise ImageError("only files of images are read here", where=address or path, cure=cure)


def is_image_name(name: str, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> bool:
    """Return True if a file of this name counts as an image of its folder."""
    return Path(name).suffix.lower() in suffixes and not is_litter(name)


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
        names.append(free_name(path.stem if shared[path.stem.casefold()] == 1 else path.name, taken))
    return names


def free_name(base: str, taken: set[str]) -> str:
    """Return a name that is not taken, whatever its case, and take it: bus, bus-2, bus-3, ..."""
    name, number = base, 2
    while name.casefold() in taken:
        name, number = f"{base}-{number}", number + 1
    taken.add(name.casefold())
    return name


def safe_stem(path: str) -> str:
    """Return the stem of a path for the names of outputs; of an address, without what file systems do not take."""
    address = address_of(path)
    if address is None:
        return Path(path).stem
    parts = urlsplit(address)
    return re.sub(r"[^\w.-]+", "_", PurePosixPath(parts.path).stem or parts.hostname or "stream")


def natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key: numbers by value, names that differ only in leading zeros by text."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), "") if at % 2 else (-1, part) for at, part in enumerate(parts)], str(path)
