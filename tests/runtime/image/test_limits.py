"""Image files that would take all memory, start a program, or never end."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from samedge.errors import ImageError, UsageError
from samedge.runtime.image.limits import FORMATS, LIMIT_VARIABLE, known_formats
from samedge.runtime.image.read import read_image


def png(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds one row: the header is read before the rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * (1 + 3 * width))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_small_file_of_very_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(20_000, 20_000))
    monkeypatch.setattr(cv2, "imdecode", None)  # the header is enough
    with pytest.raises(ImageError, match=rf"bomb\.png: .*400,000,000 pixels.*set {LIMIT_VARIABLE}") as caught:
        read_image(path)
    assert caught.value.pixels == 400_000_000


def test_the_limit_can_be_lowered_and_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restores what the variable sets
    path = tmp_path / "image.png"
    Image.new("RGB", (30, 20)).save(path)
    monkeypatch.setenv(LIMIT_VARIABLE, "599")
    with pytest.raises(ImageError, match=r"600 pixels in \d+ bytes, and the limit is 599 pixels"):
        read_image(path)
    monkeypatch.setenv(LIMIT_VARIABLE, "600")
    assert read_image(path).shape == (20, 30, 3)
    monkeypatch.setenv(LIMIT_VARIABLE, "many")
    with pytest.raises(UsageError, match=rf"{LIMIT_VARIABLE}: invalid limit 'many'"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".hdr", ".tiff"])
def test_the_limit_holds_for_formats_that_opencv_alone_reads(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    path = tmp_path / f"float{suffix}"
    path.write_bytes(cv2.imencode(suffix, np.full((20, 30, 3), 0.5, np.float32))[1].tobytes())
    assert read_image(path).shape == (20, 30, 3)
    monkeypatch.setenv(LIMIT_VARIABLE, "500")
    with pytest.raises(ImageError, match=r"600 pixels"):
        read_image(path)


def test_no_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given: started.append(given))
    data = io.BytesIO()
    Image.new("RGB", (30, 20)).save(data, "EPS")
    path = tmp_path / "photo.jpg"
    path.write_bytes(data.getvalue())
    with pytest.raises(ImageError, match=r"photo\.jpg: the file is not an image"):
        read_image(path)
    assert not started
    assert not {"EPS", "WMF", "FPX", "MIC", "IM"} & set(FORMATS)
    assert {"JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF"} <= set(known_formats())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system here")
def test_devices_and_pipes_are_not_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(ImageError, match=r"not a file but a device or a pipe"):
            read_image(path)


@pytest.mark.parametrize("head", [b"", png(3, 2)])
def test_a_sparse_file_is_not_read(head: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", None)
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(1 << 40)
    with pytest.raises(ImageError, match="too large" if head else "not an image"):
        read_image(path)
