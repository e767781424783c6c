"""Limits on image files, checked by their headers before they are read: format, size, and that they are files."""

from __future__ import annotations

import os
import re
import stat
import warnings
from threading import Lock
from typing import BinaryIO, Final

from samedge.errors import ImageError, UsageError

FORMATS: Final = (
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "SUN", "TGA", "TIFF", "WEBP"
)  # fmt: skip
"""Formats of Pillow that are opened: none of them starts a program, as EPS does. HEIF needs a plug-in."""
VIDEO_SUFFIXES: Final = (
    ".asf", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv",
)  # fmt: skip
"""Suffixes of videos; a GIF is one if it is animated."""
LIMIT_VARIABLE: Final = "SAMEDGE_MAX_PIXELS"
"""Environment variable: pixels of an image beyond which it is refused; by default Pillow's limit, 178 956 970."""

_MOST_BYTES_PER_PIXEL: Final = 16
_RADIANCE: Final = re.compile(rb"#\?.*?\n[-+][XY] (\d{1,9}) [-+][XY] (\d{1,9})\n", re.DOTALL)
"""Radiance's header ends with the size in two lengths; OpenCV alone reads it."""
_QUIET: Final = Lock()
"""The filters of warnings are those of all threads."""


def open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for the other end of a pipe; an opener for `open`."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def known_formats() -> list[str]:
    """Return those of `FORMATS` that this Pillow reads."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def check_file(file: BinaryIO, where: object) -> int:
    """Return the size of an open file, in bytes; raise ImageError for a device or a pipe."""
    about = os.fstat(file.fileno())
    if not stat.S_ISREG(about.st_mode):
        cure = "Save the image to a file first"
        raise ImageError("this is not a file but a device or a pipe", where=where, cure=cure)
    return about.st_size


def check_header(file: BinaryIO, size: int, where: object) -> None:
    """Check an image of `size` bytes by its header, and go back to its start.

    Raises:
        ImageError: It is empty, it is in none of the known formats, or it is too large.
        UsageError: `LIMIT_VARIABLE` is not a number.
    """
    if not size:
        raise ImageError("the image file is empty", where=where, cure="Copy it again")
    most = _most_pixels()
    pixels = _pixels(file, where)
    file.seek(0)
    # The second keeps sparse files, and what is appended to small images, out of memory.
    if most is not None and (pixels > most or size > most * _MOST_BYTES_PER_PIXEL):
        raise ImageError(
            f"the image is too large: {pixels:,} pixels in {size:,} bytes, and the limit is {most:,} pixels",
            where=where,
            cure=f"Cut it into tiles, make it smaller, or set {LIMIT_VARIABLE} to a larger number",
            pixels=pixels,
        )


def _most_pixels() -> int | None:
    from PIL import Image

    named = os.environ.get(LIMIT_VARIABLE)
    if named:
        if not re.fullmatch(r"[1-9]\d{0,11}", named):
            raise UsageError(f"invalid limit {named!r}", where=LIMIT_VARIABLE, cure="Give a number of pixels")
        Image.MAX_IMAGE_PIXELS = -(-int(named) // 2)  # Pillow warns beyond this and refuses beyond twice as much
        return int(named)
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def _pixels(file: BinaryIO, where: object) -> int:
    from PIL import Image, TiffImagePlugin, UnidentifiedImageError

    try:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=known_formats())
            return image.width * image.height
    except Image.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        return int(found[1]) if found else 1 << 62
    except UnidentifiedImageError as error:
        file.seek(0)
        head = file.read(4096)
        if (radiance := _RADIANCE.match(head)) is not None:
            return int(radiance[1]) * int(radiance[2])
        if head[:4] in TiffImagePlugin.PREFIXES and (tiff := _tiff_pixels(file, head[:16])):
            return tiff
        raise ImageError("the file is not an image", where=where, cure="Give a JPEG, PNG, TIFF, WebP or BMP") from error
    except Exception:  # noqa: BLE001, a damaged header, which the reading explains
        return 0


def _tiff_pixels(file: BinaryIO, head: bytes) -> int:
    """Return the pixels of a TIFF that OpenCV reads and Pillow does not, such as float RGB; 0 if it is damaged."""
    from PIL import TiffImagePlugin

    width_tag, height_tag = 256, 257
    try:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = TiffImagePlugin.ImageFileDirectory_v2(head if head[2] == 43 or head[3] == 43 else head[:8])
            file.seek(tags.next)
            tags.load(file)
        return int(tags[width_tag]) * int(tags[height_tag])
    except Exception:  # noqa: BLE001, what a damaged file raises is not documented
        return 0
