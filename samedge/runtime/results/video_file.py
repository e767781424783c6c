"""Video files of drawn frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from samedge.errors import StorageError
from samedge.runtime.image.read import opencv, silent_opencv
from samedge.runtime.image.videos import quiet_ffmpeg
from samedge.storage.files import storage_errors
from samedge.types import Closing, ImageArray

_DEFAULT_RATE: Final = 30.0
_CODECS: Final = ((".mp4", "mp4v"), (".avi", "MJPG"))
"""Container and codec: the second is in every OpenCV."""


class VideoFile(Closing):
    """A video that is written frame by frame: MPEG-4 in ``.mp4``, or Motion JPEG in ``.avi`` where OpenCV lacks that.

    Args:
        path: The file; its suffix follows the codec.
        source: Path or address of the video that was read.

    Attributes:
        path: The file that is written.
        source: As given.
    """

    def __init__(self, path: Path, source: str = "") -> None:
        self.path, self.source = path, source
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, frame: ImageArray, rate: float | None = None) -> None:
        """Append a frame, BGR uint8 ``(H, W, 3)``, resized to the first one's size; `rate` is that of the first.

        Raises:
            StorageError: The file cannot be written, or OpenCV has no codec for it.
        """
        cv2 = opencv()

        if self._writer is None:
            self._size = (frame.shape[1], frame.shape[0])
            self._writer = self._opened(rate or _DEFAULT_RATE)
        if self._size != (frame.shape[1], frame.shape[0]):
            self._writer.write(cv2.resize(frame, self._size))
        else:
            self._writer.write(frame)

    def _opened(self, rate: float) -> Any:
        cv2 = opencv()

        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
        quiet_ffmpeg()
        first = self.path.suffix.lower()
        for suffix, codec in sorted(_CODECS, key=lambda each: each[0] != first):
            path = self.path.with_suffix(suffix)
            with silent_opencv():
                writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, self._size)
            if writer.isOpened():
                if path != self.path:
                    self.path.unlink(missing_ok=True)
                self.path = path
                return writer
        self.path.unlink(missing_ok=True)
        cure = "Save the frames as images: save_frames=True, or a folder for --save"
        raise StorageError("this OpenCV writes no video", where=self.path, cure=cure)

    def close(self) -> None:
        """Finish the file. Idempotent."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
