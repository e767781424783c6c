"""Frames of video files, cameras and network streams, decoded one at a time by OpenCV."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, Final, TypeVar

from samedge.errors import ImageError, SamedgeWarning, UsageError
from samedge.runtime.image.addresses import address_of, without_login
from samedge.runtime.image.limits import VIDEO_SUFFIXES
from samedge.runtime.image.read import Frame, opencv, silent_opencv
from samedge.types import ImageArray

T = TypeVar("T")

_PATIENCE_MS: Final = 10_000
"""Time that a network stream may take to open, and for each frame."""
_DEFAULT_RATE: Final = 30.0


def quiet_ffmpeg() -> None:
    """Silence FFmpeg in OpenCV, unless its level is set: it prints what is about to be raised. Before its first use."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def is_video(path: Path) -> bool:
    """Return True for a video by its suffix, and for a GIF of several frames."""
    if path.suffix.lower() != ".gif":
        return path.suffix.lower() in VIDEO_SUFFIXES
    from PIL import Image

    try:
        with Image.open(path, formats=["GIF"]) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 - reading it as an image says why
        return False


def video_frames(source: str | int, stride: int = 1, *, live: bool = False, buffered: bool = False) -> Iterator[Frame]:
    """Yield the frames of a video.

    A file that ends before its last frame is said in a `SamedgeWarning`.

    Args:
        source: Path of a file, address of a stream, or number of a camera.
        stride: Only each n-th frame is decoded and yielded.
        live: Frames come whether or not they are read.
        buffered: Of a live source, yield every frame; otherwise the newest, and drop those that came before.

    Raises:
        UsageError: The stride is less than 1.
        ImageError: The source cannot be opened, or has no frames.
    """
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise UsageError(f"invalid vid_stride {stride!r}", where="vid_stride", cure="Give a whole number, 1 or more")
    frames = _frames(source, stride, live)
    return _newest(frames) if live and not buffered else frames


def _frames(source: str | int, stride: int, live: bool) -> Iterator[Frame]:
    cv2 = opencv()

    where = f"camera {source}" if isinstance(source, int) else without_login(source)
    capture = _opened(source, where, live)
    try:
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = (rate if 0 < rate <= 1000 else _DEFAULT_RATE) / stride  # NaN and 90 000 are reported for unknown
        count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) or None
        number = 0
        while (pixels := _next(capture, stride)) is not None:
            number += stride
            yield Frame(pixels, where, number, None if live else count, rate)
        if not number and (live or not count or count >= stride):
            raise ImageError("the video has no frames that can be decoded", where=where, cure=_CONVERT)
        if not live and count is not None and number + stride < count * 0.98:  # the count is an estimate
            message = f"{where}: the video is cut or damaged: it ends after frame {number} of {count}"
            warnings.warn(message, SamedgeWarning, stacklevel=2)
    finally:
        capture.release()


_CONVERT: Final = "Play it to check it, or convert it: ffmpeg -i VIDEO video.mp4"


def _opened(source: str | int, where: str, live: bool) -> Any:
    cv2 = opencv()

    quiet_ffmpeg()
    network = isinstance(source, str) and address_of(source) is not None
    with silent_opencv(), suppress(cv2.error):
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _PATIENCE_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _PATIENCE_MS]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits) if network else cv2.VideoCapture(source)
        if capture.isOpened():
            return capture
        capture.release()
    if isinstance(source, int):
        raise ImageError("it cannot be opened", where=where, cure="Give the number of a connected camera that is free")
    if network:
        cure = f"Check the address and the network; a stream has {_PATIENCE_MS // 1000} s to begin"
        raise ImageError("the stream cannot be opened", where=where, cure=cure)
    raise ImageError("the video cannot be opened", where=where, cure=_CONVERT)


def _next(capture: Any, stride: int) -> ImageArray | None:
    """Return the last of the next `stride` frames; None if there are fewer."""
    with silent_opencv():
        if not all(capture.grab() for _ in range(stride)):
            return None
        whole, pixels = capture.retrieve()
    return pixels if whole else None


def _newest(items: Iterator[T]) -> Iterator[T]:
    """Yield the newest item each time: a thread reads all of them, and those that nobody asked for are dropped."""
    box: Queue[tuple[T | None, BaseException | None]] = Queue(1)
    stopped = Event()

    def put(item: T | None, error: BaseException | None) -> None:
        with suppress(Empty):
            box.get_nowait()
        box.put((item, error))

    def run() -> None:
        end: BaseException = StopIteration()
        try:
            for item in items:
                if stopped.is_set():
                    return
                put(item, None)
        except BaseException as error:  # noqa: BLE001 - belongs to the reader
            end = error
        if not stopped.is_set():
            box.put((None, end))  # after the last item, which is not dropped

    thread = Thread(target=run, name="samedge-camera", daemon=True)
    thread.start()
    try:
        while True:
            item, error = box.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        with suppress(Empty):
            box.get_nowait()
