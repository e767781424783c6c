"""Whatever people call an image becomes BGR uint8, or an error that says what to do."""

from __future__ import annotations

import errno
import io
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from samedge.errors import ImageError
from samedge.runtime.image.read import as_bgr, read_image
from samedge.types import Array, ImageArray

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)  # BGR
RAMP16 = np.linspace(0, 65535, 54).astype(np.uint16).reshape(6, 9)
RAMP8 = np.rint(RAMP16 / 257).astype(np.uint8)


def grey(values: Array) -> ImageArray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def upright() -> ImageArray:
    """An image whose corners differ: orientation shows."""
    image = np.zeros((20, 30, 3), np.uint8)
    image[:10, :15] = (255, 0, 0)
    image[:10, 15:] = (0, 255, 0)
    image[10:, :15] = (0, 0, 255)
    return image


# How a camera stores an upright image for each orientation, so that applying the tag gives it back.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def stored(orientation: int, file_format: str) -> bytes:
    rgb = np.ascontiguousarray(STORED[orientation](upright())[..., ::-1])
    image = Image.fromarray(rgb)
    exif = image.getexif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, file_format, exif=exif, **({"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}))
    return buffer.getvalue()


class TestArrays:
    def test_bgr_uint8_is_returned_as_it_is(self) -> None:
        assert as_bgr(COLOUR) is COLOUR

    @pytest.mark.parametrize(
        ("array", "expected"),
        [
            (RAMP8, grey(RAMP8)),
            (RAMP8[..., None], grey(RAMP8)),
            (np.dstack([COLOUR, RAMP8]), COLOUR),
            (RAMP16, grey(RAMP8)),
            (RAMP16[..., None], grey(RAMP8)),
            (np.dstack([RAMP16] * 3), grey(RAMP8)),
            (np.dstack([RAMP16] * 4), grey(RAMP8)),
            (RAMP16.astype(">u2"), grey(RAMP8)),
            (RAMP8 > 99, grey((RAMP8 > 99) * 255)),
            (np.asfortranarray(COLOUR), COLOUR),
            (COLOUR[:, ::-1], COLOUR[:, ::-1]),
            (COLOUR[:1, :1], COLOUR[:1, :1]),
        ],
        ids=[
            "grey", "grey with channel", "alpha", "16 bit grey", "16 bit channel", "16 bit colour", "16 bit alpha",
            "16 bit big-endian", "bool", "fortran order", "view", "one pixel",
        ],
    )  # fmt: skip
    def test_every_shape_and_depth_works(self, array: Array, expected: ImageArray) -> None:
        got = as_bgr(array)
        assert got.dtype == np.uint8
        assert got.ndim == 3
        np.testing.assert_array_equal(got, expected)

    @given(hnp.arrays(np.uint16, st.tuples(st.integers(1, 5), st.integers(1, 5))))
    def test_16_bits_are_rounded_over_their_full_range(self, array: Array) -> None:
        np.testing.assert_array_equal(as_bgr(array, "full")[..., 0], np.floor(array / 257 + 0.5))

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.full((2, 2), 1.5, np.float32), r"values of float32 from 1\.5 to 1\.5, .*value_range.*0\.\.1"),
            (np.full((2, 2), -0.1), r"values of float64 from -0\.1"),
            (np.full((2, 2, 3), np.nan), r"values of float64 that are not finite"),
            (np.full((2, 2), np.inf, np.float32), r"not finite"),
            (np.full((2, 2), -1, np.int16), r"values of int16 from -1 to -1, .*value_range=\(low, high\)"),
            (np.full((2, 2), 65536, np.int64), r"values of int64 from 65536"),
            (np.zeros((2, 2), np.complex64), r"dtype complex64"),
            (np.zeros((2, 2), object), r"dtype object"),
            (np.zeros((0, 5, 3), np.uint8), r"has no pixels: its shape is \(0, 5, 3\)"),
            (np.zeros((5, 0), np.uint8), r"has no pixels"),
            (np.zeros((3, 64, 48), np.uint8), r"shape \(3, 64, 48\)\. Put the channels last"),
            (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
            (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\)"),
            (np.zeros((1, 4, 4, 3), np.uint8), r"Set one image at a time"),
            (np.zeros(12, np.uint8), r"shape \(12,\)"),
            (np.zeros((), np.uint8), r"shape \(\)"),
        ],
    )
    def test_others_are_refused_with_a_cure(self, array: Array, message: str) -> None:
        with pytest.raises(ImageError, match=message) as caught:
            as_bgr(array)
        assert caught.value.where == "image array"

    @pytest.mark.parametrize("thing", [None, 3, b"bytes", [[1, 2], [3, 4]], {"image": 1}])
    def test_other_things_are_refused(self, thing: Any) -> None:
        with pytest.raises(ImageError, match=r"invalid image of type .*numpy array"):
            as_bgr(thing)


class TestPIL:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "RGBa", "La"])
    def test_every_mode_works(self, mode: str) -> None:
        original = Image.fromarray(np.ascontiguousarray(COLOUR[..., ::-1]))
        image = original.convert("RGBA").convert("RGBa") if mode == "RGBa" else None
        image = original.convert("LA").convert("La") if mode == "La" else image
        image = image or original.convert(mode)
        assert image.mode == mode
        plain = image.convert({"RGBa": "RGBA", "La": "LA"}.get(mode, mode)).convert("RGB")
        got = as_bgr(image)
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, np.asarray(plain)[..., ::-1])

    def test_the_colour_order_is_turned(self) -> None:
        got = as_bgr(Image.new("RGB", (2, 1), (255, 0, 7)))
        np.testing.assert_array_equal(got, [[[7, 0, 255]] * 2])

    def test_transparent_palettes_do_not_warn(self) -> None:
        image = Image.new("P", (3, 2), 1)
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.info["transparency"] = b"\x00\xff"
        np.testing.assert_array_equal(as_bgr(image), np.full((2, 3, 3), (60, 50, 40)))

    @pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
    def test_16_bits_are_scaled_and_not_clipped(self, mode: str) -> None:
        if mode == "I":
            image = Image.fromarray(RAMP16.astype(np.int32))
        else:
            data = RAMP16.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
            image = Image.frombytes(mode, (9, 6), data)
        assert image.mode == mode
        np.testing.assert_array_equal(as_bgr(image), grey(RAMP8))

    @pytest.mark.parametrize("values", [-1, 65536, 2**30])
    def test_integers_beyond_16_bits_are_refused(self, values: int) -> None:
        with pytest.raises(ImageError, match=r"values of int32 from .*value_range"):
            as_bgr(Image.fromarray(np.full((2, 2), values, np.int32)))

    def test_floats_are_scaled_from_0_to_1(self) -> None:
        ramp = Image.fromarray(RAMP8.astype(np.float32) / 255)
        np.testing.assert_array_equal(as_bgr(ramp), grey(RAMP8))
        with pytest.raises(ImageError, match=r"values of float32 from 0 to 255"):
            as_bgr(Image.fromarray(RAMP8.astype(np.float32)))

    def test_no_pixels(self) -> None:
        with pytest.raises(ImageError, match=r"no pixels"):
            as_bgr(Image.new("RGB", (0, 4)))

    @pytest.mark.parametrize("orientation", STORED)
    def test_exif_orientation_is_applied(self, orientation: int) -> None:
        image = Image.open(io.BytesIO(stored(orientation, "PNG")))
        np.testing.assert_array_equal(as_bgr(image), upright())

    def test_a_cut_file_is_an_error_when_pil_reads_it(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.png"
        path.write_bytes(stored(1, "PNG")[:-30])
        with Image.open(path) as image, pytest.raises(ImageError, match=r"cut\.png.*cannot be converted"):
            as_bgr(image)


class TestFiles:
    @pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp", ".ppm"])
    def test_lossless_formats_give_their_pixels(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"image{suffix}"
        options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
        assert cv2.imwrite(str(path), COLOUR, options)
        np.testing.assert_array_equal(read_image(path), COLOUR)
        np.testing.assert_array_equal(as_bgr(str(path)), COLOUR)

    def test_jpeg_is_what_opencv_reads(self, tmp_path: Path) -> None:
        path = tmp_path / "image.jpg"
        cv2.imwrite(str(path), cv2.resize(COLOUR, (90, 60)))
        np.testing.assert_array_equal(read_image(path), cv2.imread(str(path)))

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
    @pytest.mark.parametrize("orientation", STORED)
    def test_exif_orientation_is_applied(self, orientation: int, file_format: str, tmp_path: Path) -> None:
        path = tmp_path / "turned"
        path.write_bytes(stored(orientation, file_format))
        got = read_image(path)
        assert got.shape == (20, 30, 3)
        centres = got[5::10, 7::15].astype(int)
        np.testing.assert_allclose(centres, upright()[5::10, 7::15], atol=40 if file_format in ("JPEG", "WEBP") else 0)

    @pytest.mark.parametrize("suffix", [".png", ".tiff"])
    def test_16_bits_are_scaled(self, suffix: str, tmp_path: Path) -> None:
        for name, array in (("grey", RAMP16), ("colour", np.dstack([RAMP16] * 3)), ("alpha", np.dstack([RAMP16] * 4))):
            path = tmp_path / f"{name}{suffix}"
            assert cv2.imwrite(str(path), array)
            np.testing.assert_array_equal(read_image(path), grey(RAMP8))

    def test_grey_and_alpha_and_palette(self, tmp_path: Path) -> None:
        rgb = Image.fromarray(np.ascontiguousarray(COLOUR[..., ::-1]))
        for name, image, expected in (
            ("grey", Image.fromarray(RAMP8), grey(RAMP8)),
            ("alpha", Image.merge("RGBA", (*rgb.split(), Image.fromarray(RAMP8))), COLOUR),
            ("bits", Image.fromarray(RAMP8 > 99), grey((RAMP8 > 99) * 255)),
        ):
            image.save(tmp_path / f"{name}.png")
            np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), expected)
        palette = rgb.quantize(16)
        palette.save(tmp_path / "palette.png")
        np.testing.assert_array_equal(
            read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB"))[..., ::-1]
        )

    def test_formats_that_only_pil_knows(self, tmp_path: Path) -> None:
        path = tmp_path / "image.tga"
        Image.fromarray(np.ascontiguousarray(COLOUR[..., ::-1])).save(path)
        np.testing.assert_array_equal(read_image(path), COLOUR)

    @pytest.mark.parametrize(("height", "width"), [(4, 40000), (40000, 3), (1, 1)])
    def test_any_size(self, height: int, width: int, tmp_path: Path) -> None:
        image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "long.png"), image)
        np.testing.assert_array_equal(read_image(tmp_path / "long.png"), image)

    def test_names_that_are_not_ascii(self, tmp_path: Path) -> None:
        path = tmp_path / "사진 – фото.png"
        path.write_bytes(stored(1, "PNG"))
        np.testing.assert_array_equal(read_image(path), upright())


class TestBadFiles:
    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"nothing\.jpg: the image cannot be read: No such file"):
            read_image(tmp_path / "nothing.jpg")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"cannot be read: Is a directory"):
            read_image(tmp_path)

    def test_a_path_with_a_null_byte(self) -> None:
        with pytest.raises(ImageError, match=r"cannot be read"):
            read_image("a\0b")

    def test_no_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: str, _: int) -> int:  # root may read everything, so that the mode of a file proves nothing
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr("samedge.runtime.image.limits.os.open", refuse)
        with pytest.raises(ImageError, match=r"secret\.png: the image cannot be read: Permission denied"):
            read_image(tmp_path / "secret.png")

    def test_an_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.png"
        path.touch()
        with pytest.raises(ImageError, match=r"empty\.png: the image file is empty"):
            read_image(path)

    @pytest.mark.parametrize("content", [b"hello", b"\x00" * 5000, b"%PDF-1.7 not an image", b"<svg/>"])
    def test_not_an_image(self, content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "note.jpg"
        path.write_bytes(content)
        with pytest.raises(ImageError, match=r"note\.jpg: the file is not an image"):
            read_image(path)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "WEBP"])
    @pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
    def test_a_cut_file(self, file_format: str, keep: float, tmp_path: Path) -> None:
        noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        noise.save(buffer, file_format)
        path = tmp_path / "cut"
        path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * keep)])
        with pytest.raises(ImageError, match=r"cut: the image is damaged"):
            read_image(path)

    def test_a_cut_jpeg_is_found_although_its_thumbnail_is_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Some versions of OpenCV return such a file with grey in place of what is missing: stand for them.
        buffer = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
        data = buffer.getvalue()
        thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(data)) + data
        path = tmp_path / "cut.jpg"
        path.write_bytes(data[:2] + thumbnail + data[2 : len(data) // 2])
        monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((64, 64, 3), np.uint8))
        with pytest.raises(ImageError, match=r"damaged"):
            read_image(path)
        path.write_bytes(data[:2] + thumbnail + data[2:])
        assert read_image(path).shape == (64, 64, 3)

    def test_too_many_pixels(self, tmp_path: Path) -> None:
        def chunk(name: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        path = tmp_path / "bomb.png"
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        )
        with pytest.raises(ImageError, match=r"bomb\.png: the image is too large.*tiles"):
            read_image(path)

    def test_float_files_beyond_1_are_refused_without_a_range(self, tmp_path: Path) -> None:
        path = tmp_path / "radiance.hdr"
        assert cv2.imwrite(str(path), np.full((4, 4, 3), 2, np.float32))
        with pytest.raises(ImageError, match=r"radiance\.hdr: the image has values of float32 from 2 to 2, "):
            read_image(path)
        np.testing.assert_array_equal(read_image(path, (0, 4)), np.full((4, 4, 3), 128))

    def test_errors_are_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / "nothing.jpg")
        assert re.fullmatch(r"[^\n]+", str(caught.value))
