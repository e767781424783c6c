"""Conversion of files, arrays and PIL images, of any depth and channel count, to BGR uint8.

EXIF orientation is applied, values of other types are scaled by `to_uint8`, grey is expanded, alpha is dropped.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from samedge.errors import ImageError, MissingExtraError, SamedgeWarning
from samedge.runtime.image.addresses import address_of, fetch_image, without_login
from samedge.runtime.image.limits import VIDEO_SUFFIXES, check_file, check_header, known_formats, open_at_once
from samedge.runtime.image.value_range import ValueRange, to_uint8
from samedge.types import ImageArray

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


class Tensor(Protocol):
    """A tensor of torch."""

    def detach(self) -> Any:
        """Return it without its gradient."""
        ...

    def is_floating_point(self) -> bool:
        """Return True for floats."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """An image and its place in a video, a batch or the network.

    Attributes:
        image: The image, as `as_bgr` reads it.
        path: The video's path, an address, "image0.jpg".
        number: Position in the video, from 1; None for images.
        count: Number of frames of the video, an estimate; None if it is unknown.
        rate: Frames that are read for each second of the video.
    """

    image: ImageSource
    path: str
    number: int | None = None
    count: int | None = None
    rate: float | None = None


ImageSource: TypeAlias = "str | os.PathLike[str] | NDArray[Any] | PILImage | Frame | Tensor"

_ORIENTATION_TAG: Final = 0x0112


def path_of(source: ImageSource) -> str | None:
    """Return the path of an image or of its video; None for an array and for a PIL image."""
    if isinstance(source, Frame):
        return source.path
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else None


def as_bgr(source: ImageSource, value_range: ValueRange = None) -> ImageArray:
    """Return an image as BGR uint8 ``(H, W, 3)``; an array in this form is returned itself.

    Args:
        source: A path or an address; a PIL image of any mode; an array ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` in BGR
            order or ``(H, W, 4)`` in BGRA order, of integers, of floats 0..1, or of bool; or a torch tensor
            ``(3, H, W)`` or ``(1, 3, H, W)``, RGB, of floats 0..1.
        value_range: The values that become black and white, see `to_uint8`; images of uint8 stay as they are.

    Raises:
        ImageError: It cannot be read, has no pixels, or has an unsupported shape, dtype or range.
        UsageError: The value range is invalid.
    """
    if isinstance(source, Frame):
        return as_bgr(source.image, value_range)
    if isinstance(source, np.ndarray):
        return _from_array(source, "image array", value_range)
    if isinstance(source, (str, os.PathLike)):
        return read_image(source, value_range)
    from PIL import Image

    if isinstance(source, Image.Image):
        return _from_pil(source, getattr(source, "filename", "") or "PIL image", value_range)
    if is_tensor(source):
        images = tensor_images(source)
        if len(images) == 1:
            return images[0]
        raise ImageError(f"the tensor holds {len(images)} images", cure="Set one image at a time")
    raise ImageError(
        f"invalid image of type {type(source).__name__}", cure="Give a path, a numpy array (BGR, uint8) or a PIL image"
    )


def is_tensor(source: object) -> bool:
    """Return True for a tensor of torch, which is not imported for it."""
    return type(source).__module__.partition(".")[0] == "torch" and hasattr(source, "detach")


def tensor_images(tensor: Any) -> Sequence[ImageArray]:
    """Return the images of a torch tensor, BGR uint8 ``(H, W, 3)`` each.

    Args:
        tensor: ``(B, 3, H, W)`` or ``(3, H, W)``, RGB: floats 0..1 (0..255 with a `SamedgeWarning`), or uint8.

    Raises:
        ImageError: It has another shape, dtype or range.
    """
    tensor = tensor.detach().cpu()
    values: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    shape = tuple(values.shape)
    values = values[None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[1] != 3 or 0 in shape:
        cure = "Give (B, 3, H, W) or (3, H, W), RGB, floats 0..1"
        raise ImageError(f"invalid tensor of shape {shape}", where="tensor", cure=cure)
    if values.dtype.kind == "f":
        least, most = float(values.min()), float(values.max())
        if not (least >= 0 and most <= 255):  # NaN is neither
            cure = "Give floats 0..1"
            raise ImageError(f"values from {least:g} to {most:g} are no image", where="tensor", cure=cure)
        if most > 1 + 1e-3:
            warnings.warn(
                "the tensor was read as 0..255, since floats of an image are 0..1", SamedgeWarning, stacklevel=2
            )
        values = (values * (1 if most > 1 + 1e-3 else 255)).clip(0, 255).round().astype(np.uint8)
    elif values.dtype != np.uint8:
        raise ImageError(f"invalid tensor of {values.dtype}", where="tensor", cure="Give floats 0..1, or uint8")
    return [np.ascontiguousarray(image[::-1].transpose(1, 2, 0)) for image in values]


def read_image(path: str | os.PathLike[str], value_range: ValueRange = None) -> ImageArray:
    """Read an image file, or one at an address, as BGR uint8 ``(H, W, 3)``, rotated by its EXIF orientation.

    Raises:
        ImageError: The file is missing, unreadable, truncated, not an image, or too large to decode.
    """
    address = address_of(path)
    if address is not None:
        found = fetch_image(address)
        if found is None:
            cure = "Give it to SAM, YOLO or stream, which read its frames"
            raise ImageError("this is a video stream, not an image", where=without_login(address), cure=cure)
        return decode_image(found, without_login(address), value_range)
    path = Path(path)
    try:
        with open(path, "rb", opener=open_at_once) as file:
            check_header(file, check_file(file, path), path)
            data = file.read()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise ImageError(f"the image cannot be read: {reason}", where=path, cure="Check the path") from error
    except ImageError as error:
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise
        cure = "Give it to SAM, YOLO or stream, which read its frames, or extract them: ffmpeg -i VIDEO %06d.jpg"
        raise ImageError("this is a video, not an image", where=path, cure=cure) from error
    return _decoded(data, path, value_range)


def decode_image(data: bytes, where: object, value_range: ValueRange = None) -> ImageArray:
    """Decode the contents of an image file, named `where` in errors, as `read_image`."""
    check_header(BytesIO(data), len(data), where)
    return _decoded(data, where, value_range)


def _decoded(data: bytes, where: object, value_range: ValueRange) -> ImageArray:
    pixels = None if _is_cut_jpeg(data) or _is_webp_with_exif(data) else _decode_with_cv2(data)
    if pixels is not None:
        return _from_array(pixels, where, value_range)
    # PIL reads some formats that OpenCV does not, and explains failures.
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(BytesIO(data), formats=known_formats())
            image.load()
    except Exception as error:
        raise ImageError(f"the image is damaged: {error}", where=where, cure="Copy it again") from error
    return _from_pil(image, where, value_range)


def _decode_with_cv2(data: bytes) -> NDArray[Any] | None:
    """Return BGR pixels in the file's own depth, or None if OpenCV cannot read them."""
    cv2 = opencv()
    with _SILENCE:  # it would print what is about to be raised
        try:
            pixels: NDArray[Any] | None = cv2.imdecode(
                np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
            )
        except cv2.error:
            return None
    return pixels


def opencv() -> Any:
    """Return the module cv2.

    Raises:
        MissingExtraError: It cannot be imported; the cure tells of two wheels that overwrite each other, and of one
            that needs the libraries of a desktop.
    """
    try:
        return import_module("cv2")
    except ImportError as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        wheels = [name for name in _WHEELS if installed(name)]
        both = f" ({' and '.join(wheels)} are installed together and overwrite each other)" if len(wheels) > 1 else ""
        remove = f"pip uninstall -y {' '.join(wheels)} && " if wheels else ""
        raise MissingExtraError(
            f"OpenCV cannot be imported: {cause}{both}", cure=f"Run: {remove}pip install opencv-python-headless"
        ) from error


_WHEELS: Final = (
    "opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless",
)  # fmt: skip


def installed(wheel: str) -> bool:
    """Return True if a wheel of this name is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(wheel)
    except PackageNotFoundError:
        return False
    return True


class _Silence:
    """Silences OpenCV's log while any thread is inside; the last one to leave restores the level."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._level = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._level = _set_log_level(0)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _set_log_level(self._level)


def _set_log_level(level: int) -> int:
    """Set the level of OpenCV's log, 0 for silence, and return the level before."""
    cv2 = opencv()

    # One function under two names: OpenCV 4.8 to 4.12 have the first alone, 4.13 and later the second.
    set_level: Any = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    before: int = set_level(level)
    return before


_SILENCE: Final = _Silence()


def silent_opencv() -> AbstractContextManager[None]:
    """Return a context in which OpenCV's log is silent."""
    return _SILENCE


def _is_cut_jpeg(data: bytes) -> bool:
    """Return True for a truncated JPEG, which some versions of OpenCV complete with grey."""
    if not data.startswith(b"\xff\xd8"):
        return False
    at = 2
    # Walk the headers, so that the end of a thumbnail in them is not mistaken for the end of the image.
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) < 0


def _is_webp_with_exif(data: bytes) -> bool:
    """Return True for a WebP with EXIF, whose orientation OpenCV 4 ignores; the flag is in the VP8X header."""
    return data[8:16] == b"WEBPVP8X" and bool(data[20] & 8)


def _no_pixels(name: str, shape: tuple[int, ...], where: object) -> ImageError:
    cure = "Give an image of at least 1 x 1 px"
    return ImageError(f"the image has no pixels: its {name} is {shape}", where=where, cure=cure, shape=shape)


def _from_array(array: NDArray[Any], where: object, value_range: ValueRange) -> ImageArray:
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
        raise _no_pixels("shape", shape, where)
    if array.ndim == 3 and shape[2] == 4:
        array = array[..., :3]
    if array.dtype != np.uint8:
        array = to_uint8(array, value_range, where)
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return cast("ImageArray", array)


def _from_pil(image: PILImage, where: object, value_range: ValueRange) -> ImageArray:
    from PIL import Image, ImageOps

    if 0 in image.size:
        raise _no_pixels("size", image.size, where)
    try:
        image.load()
        if image.getexif().get(_ORIENTATION_TAG, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode in ("F", "I") or image.mode.startswith("I;16"):
            return _from_array(np.asarray(image), where, value_range)  # PIL itself would clip at 255
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
