"""Conversion of files, arrays and PIL images, of any depth and channel count, to BGR uint8.

EXIF orientation is applied, 16 bits are scaled over their full range, grey is expanded, and alpha is dropped. Floats
are rejected, because 0..1 and 0..255 are indistinguishable.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from samedge.errors import ImageError
from samedge.types import ImageArray

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

ImageSource: TypeAlias = "str | os.PathLike[str] | NDArray[Any] | PILImage"

_ORIENTATION_TAG: Final = 0x0112
_TILES: Final = "Cut it into tiles, or make it smaller"


def path_of(source: ImageSource) -> str | None:
    """Return the path of an image; None for an array and for a PIL image."""
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else None


def as_bgr(source: ImageSource) -> ImageArray:
    """Return an image as BGR uint8 ``(H, W, 3)``; an array already in this form is returned unchanged.

    Args:
        source: A path; a PIL image of any mode; or an array ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` in BGR order or
            ``(H, W, 4)`` in BGRA order, of uint8, uint16 (scaled from 0..65535) or bool.

    Raises:
        ImageError: It cannot be read, has no pixels, or has an unsupported shape or dtype.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, "image array")
    if isinstance(source, (str, os.PathLike)):
        return read_image(source)
    from PIL import Image

    if isinstance(source, Image.Image):
        return _from_pil(source, getattr(source, "filename", "") or "PIL image")
    raise ImageError(
        f"invalid image of type {type(source).__name__}", cure="Give a path, a numpy array (BGR, uint8) or a PIL image"
    )


def read_image(path: str | os.PathLike[str]) -> ImageArray:
    """Read an image file as BGR uint8 ``(H, W, 3)``, rotated by its EXIF orientation.

    Raises:
        ImageError: The file is missing, unreadable, truncated, not an image, or too large to decode.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise ImageError(f"the image cannot be read: {reason}", where=path, cure="Check the path") from error
    if not data:
        raise ImageError("the image file is empty", where=path, cure="Copy it again")
    pixels = None if _is_cut_jpeg(data) else _decode_with_cv2(data)
    if pixels is not None:
        return _from_array(pixels, path)
    # PIL reads some formats that OpenCV does not, and explains failures.
    from io import BytesIO

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(BytesIO(data))
            image.load()
    except Image.DecompressionBombError as error:
        raise ImageError(f"the image is too large: {error}", where=path, cure=_TILES) from error
    except UnidentifiedImageError as error:
        raise ImageError("the file is not an image", where=path, cure="Give a JPEG, PNG, TIFF, WebP or BMP") from error
    except Exception as error:
        raise ImageError(f"the image is damaged: {error}", where=path, cure="Copy it again") from error
    return _from_pil(image, path)


def _decode_with_cv2(data: bytes) -> NDArray[Any] | None:
    """Return BGR pixels in the file's own depth, or None if OpenCV cannot read them."""
    import cv2

    with _SILENCE:  # it would print what is about to be raised
        try:
            return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        except cv2.error:
            return None


class _Silence:
    """Silences OpenCV's log while any thread is inside; the last one to leave restores the level."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._level = 0

    def __enter__(self) -> None:
        import cv2

        with self._lock:
            if not self._inside:
                self._level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        import cv2

        with self._lock:
            self._inside -= 1
            if not self._inside:
                cv2.utils.logging.setLogLevel(self._level)


_SILENCE: Final = _Silence()


def _is_cut_jpeg(data: bytes) -> bool:
    """Return True for a truncated JPEG, which some versions of OpenCV complete with grey."""
    if not data.startswith(b"\xff\xd8"):
        return False
    at = 2
    # Walk the headers, so that the end of a thumbnail in them is not mistaken for the end of the image.
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) < 0


def _from_array(array: NDArray[Any], where: object) -> ImageArray:
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        if array.ndim == 3 and shape[0] in (1, 3, 4):
            cure = "Put the channels last: image.transpose(1, 2, 0)"
        elif array.ndim == 4:
            cure = "Set one image at a time"
        else:
            cure = "Give (H, W), (H, W, 1), (H, W, 3) as BGR or (H, W, 4) as BGRA"
        raise ImageError(f"invalid image shape {shape}", where=where, cure=cure, shape=shape)
    if 0 in shape:
        raise ImageError(
            f"the image has no pixels: its shape is {shape}",
            where=where,
            cure="Give an image of at least 1 x 1 px",
            shape=shape,
        )
    if array.ndim == 3 and shape[2] == 4:
        array = array[..., :3]
    if array.dtype == np.bool_:
        array = array.view(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        # A table instead of arithmetic, which would need four bytes per value: round(v / 257).
        table = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)
        array = table[array]
    elif array.dtype != np.uint8:
        raise _wrong_dtype(array, where)
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return cast("ImageArray", array)


def _wrong_dtype(array: NDArray[Any], where: object) -> ImageError:
    what = f"invalid image dtype {array.dtype}"
    cure = "Convert it to uint8, 0..255"
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            what += ", with NaN"
        cure = "Convert it to uint8, 0..255: (image * 255).round().astype('uint8') if its values are 0..1"
    return ImageError(what, where=where, cure=cure, dtype=array.dtype)


def _from_pil(image: PILImage, where: object) -> ImageArray:
    from PIL import Image, ImageOps

    if 0 in image.size:
        raise ImageError(
            f"the image has no pixels: its size is {image.size}",
            where=where,
            cure="Give an image of at least 1 x 1 px",
            shape=image.size,
        )
    try:
        image.load()
        if image.getexif().get(_ORIENTATION_TAG, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            return _from_array(np.asarray(image), where)
        if image.mode == "I" or image.mode.startswith("I;16"):
            return _from_array(_sixteen_bits(image, where), where)
        if image.mode in ("RGBa", "La"):
            image = image.convert(image.mode.upper())
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA")  # first, as PIL warns about transparent palettes
        return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"the image (PIL mode {image.mode}) cannot be converted: {error}",
            where=where,
            cure="Convert it with image.convert('RGB') first",
        ) from error


def _sixteen_bits(image: PILImage, where: object) -> NDArray[np.uint16]:
    """Return 16-bit pixels, which PIL's own conversion would clip at 255. Some PNG and PGM files open as mode "I"."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"the image has 32-bit values from {values.min()} to {values.max()}",
            where=where,
            cure="Scale it to 0..255 and convert it to uint8",
        )
    return values.astype(np.uint16)
