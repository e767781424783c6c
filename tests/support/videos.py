"""Small videos, written by OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from samedge.runtime.image.videos import quiet_ffmpeg
from samedge.types import ImageArray

quiet_ffmpeg()


def frame(number: int, height: int = 48, width: int = 64) -> ImageArray:
    """Return a frame whose grey tells its number, from 1; codecs are exact to a few values."""
    return np.full((height, width, 3), number * 10, np.uint8)


def write_video(path: Path, frames: int = 10, rate: float = 10) -> Path:
    """Write a video of 64 x 48 px in the codec of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {".avi": "MJPG", ".mp4": "mp4v"}[path.suffix]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, (64, 48))
    for number in range(1, frames + 1):
        writer.write(frame(number))
    writer.release()
    return path


def number_of(image: ImageArray) -> int:
    """Return the number of a frame."""
    return round(float(image.mean()) / 10)
