"""Pixel values of any type, scaled to 0..255."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from samedge.errors import SamedgeWarning, UsageError
from samedge.runtime.image.read import as_bgr
from samedge.runtime.image.value_range import to_uint8

RAMP = np.linspace(0, 1, 100)


@pytest.mark.parametrize(
    ("brightest", "bits"), [(200, 8), (255, 8), (256, 10), (1023, 10), (3060, 12), (4095, 12), (4096, 14), (16383, 14)]
)
def test_fewer_bits_than_the_container_are_found_and_said(brightest: int, bits: int) -> None:
    values = np.rint(RAMP * brightest).astype(np.uint16)
    white = (1 << bits) - 1
    with pytest.warns(SamedgeWarning, match=rf"below {white} was read as {bits}-bit, 0\.\.{white}"):
        scaled = to_uint8(values)
    np.testing.assert_array_equal(scaled, np.rint(values * 255.0 / white))
    assert scaled.max() > 60  # it was 1 to 12 of 255


@pytest.mark.parametrize("brightest", [16384, 40000, 65535])
def test_16_bits_stay_16_bits(brightest: int) -> None:
    values = np.rint(RAMP * brightest).astype(np.uint16)
    np.testing.assert_array_equal(to_uint8(values), np.rint(values / 257))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_8_bits_in_a_wide_integer_are_8_bits(dtype: Any) -> None:
    values = np.arange(256).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if dtype is np.int16 else "error")
        np.testing.assert_array_equal(to_uint8(values), np.arange(256))


def test_black_does_not_warn() -> None:
    assert not to_uint8(np.zeros((3, 4), np.uint16)).any()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_12_bits_in_a_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"camera{suffix}"
    values = np.rint(RAMP * 4095).astype(np.uint16).reshape(10, 10)
    assert cv2.imwrite(str(path), values)
    with pytest.warns(SamedgeWarning, match="12-bit"):
        read = as_bgr(path)
    np.testing.assert_array_equal(read[..., 0], np.rint(values * 255.0 / 4095))
    with Image.open(path) as image, pytest.warns(SamedgeWarning, match="12-bit"):
        np.testing.assert_array_equal(as_bgr(image), read)
    assert as_bgr(path, "full").max() == 16


class TestGivenRanges:
    @given(
        hnp.arrays(st.sampled_from([np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64]), 20,
                   elements={"min_value": 0, "max_value": 200}),
        st.floats(-100, 100), st.floats(0.5, 300),
    )  # fmt: skip
    def test_a_pair(self, values: NDArray[Any], low: float, width: float) -> None:
        wanted = np.clip(np.rint((values.astype(np.float64) - low) * (255 / ((low + width) - low))), 0, 255)
        np.testing.assert_array_equal(to_uint8(values, (low, low + width)), wanted)

    def test_the_image_decides(self) -> None:
        scaled = to_uint8(np.array([-1000, 0, 3000], np.int16), "image")
        np.testing.assert_array_equal(scaled, [0, 64, 255])
        assert not to_uint8(np.full(3, 7.5), "image").any()

    def test_full(self) -> None:
        np.testing.assert_array_equal(to_uint8(np.array([-32768, 32767], np.int16), "full"), [0, 255])
        np.testing.assert_array_equal(to_uint8(np.array([0.0, 0.5, 2.0]), "full"), [0, 128, 255])

    def test_8_bits_stay_as_they_are(self) -> None:
        """An image that was read with a range is not scaled again."""
        image = np.full((2, 2, 3), 60, np.uint8)
        assert as_bgr(image, (0, 120)) is image
        assert as_bgr(Image.fromarray(image), (0, 120)).max() == 60

    @pytest.mark.parametrize("value_range", [(1, 1), (2, 1), (0, np.nan), (0, np.inf), "wide", (1, 2, 3), ("a", "b")])
    def test_others_are_refused(self, value_range: Any) -> None:
        with pytest.raises(UsageError, match="invalid value range"):
            to_uint8(np.zeros(2, np.uint16), value_range)
