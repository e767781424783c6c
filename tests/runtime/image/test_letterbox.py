"""Where images come to lie in the input of a YOLO."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samedge.runtime.image.letterbox import GREY, Letterbox

SIDES = st.integers(1, 3000)


class TestPlace:
    @pytest.mark.parametrize(
        ("image", "size", "rect", "expected"),
        [
            # (height, width), (input height, width), rect: (input), (resized), (top, left), worked out by hand
            ((810, 1080), (640, 640), True, ((480, 640), (480, 640), (0, 0))),
            ((810, 1080), (640, 640), False, ((640, 640), (480, 640), (80, 0))),
            ((517, 333), (640, 640), True, ((640, 416), (640, 412), (0, 2))),
            ((517, 333), (640, 640), False, ((640, 640), (640, 412), (0, 114))),
            ((100, 101), (320, 320), False, ((320, 320), (317, 320), (1, 0))),  # 3 rows: 1 above, 2 below
            ((1, 3000), (640, 640), True, ((33 - 1, 640), (1, 640), (15, 0))),  # a row is not rounded away
            ((400, 600), (256, 416), False, ((256, 416), (256, 384), (0, 16))),
        ],
    )
    def test_by_hand(
        self, image: tuple[int, int], size: tuple[int, int], rect: bool, expected: tuple[tuple[int, int], ...]
    ) -> None:
        box = Letterbox.of(*image, *size, rect=rect)
        assert (box.input_height, box.input_width) == expected[0]
        assert (box.resized_height, box.resized_width) == expected[1]
        assert (box.top, box.left) == expected[2]

    @given(SIDES, SIDES, st.sampled_from([32, 320, 640, 1024]), st.booleans())
    def test_the_image_fits(self, height: int, width: int, side: int, rect: bool) -> None:
        box = Letterbox.of(height, width, side, side, rect=rect)
        assert box.input_height % 32 == box.input_width % 32 == 0
        assert max(box.input_height, box.input_width) == side
        assert 0 <= box.top <= box.input_height - box.resized_height
        assert 0 <= box.left <= box.input_width - box.resized_width
        assert box.resized_height >= 1
        assert box.resized_width >= 1
        if rect:
            assert box.input_height - box.resized_height < 32
            assert box.input_width - box.resized_width < 32


class TestPixels:
    def test_the_image_is_rgb_in_the_middle_of_grey(self) -> None:
        bgr = np.zeros((4, 8, 3), np.uint8)
        bgr[..., 0], bgr[..., 1], bgr[..., 2] = 51, 102, 204
        tensor = Letterbox.of(4, 8, 64, 64, rect=False).input(bgr)
        assert tensor.shape == (1, 3, 64, 64)
        assert tensor.dtype == np.float32
        np.testing.assert_allclose(tensor[0, :, 16:48].reshape(3, -1).T, np.broadcast_to([0.8, 0.4, 0.2], (2048, 3)))
        np.testing.assert_allclose(tensor[0, :, :16], GREY / 255)
        np.testing.assert_allclose(tensor[0, :, 48:], GREY / 255)

    def test_an_image_of_the_size_is_not_resampled(self) -> None:
        bgr = np.random.default_rng(0).integers(0, 256, (64, 32, 3), np.uint8)
        tensor = Letterbox.of(64, 32, 64, 64, rect=True).input(bgr)
        assert tensor.shape == (1, 3, 64, 32)
        np.testing.assert_array_equal((tensor[0] * 255).round(), bgr[..., ::-1].transpose(2, 0, 1))


class TestBoxes:
    @given(SIDES, SIDES, st.booleans())
    def test_the_whole_content_is_the_whole_image(self, height: int, width: int, rect: bool) -> None:
        box = Letterbox.of(height, width, 640, 640, rect=rect)
        content = np.array(
            [[box.left, box.top, box.left + box.resized_width, box.top + box.resized_height]], np.float32
        )
        np.testing.assert_allclose(box.to_image(content), [[0, 0, width, height]], rtol=1e-5, atol=1e-3)

    def test_boxes_end_at_the_border(self) -> None:
        box = Letterbox.of(100, 200, 64, 64, rect=False)
        np.testing.assert_allclose(
            box.to_image(np.array([[-50, -50, 900, 900], [32, 32, 48, 40]], np.float32)),
            [[0, 0, 200, 100], [100, 50, 150, 75]],
        )
        assert box.to_image(np.zeros((0, 4), np.float32)).shape == (0, 4)
