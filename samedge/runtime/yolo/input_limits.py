"""Input limits of a YOLO engine: its graph may accept any number of images of any size, an engine only a range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from samedge.options import AxisRange
from samedge.runtime.image.letterbox import Letterbox

INPUT_AXES: Final = ("batch", "height", "width")
"""Free axes of the input."""


@dataclass(frozen=True, slots=True)
class InputLimits:
    """Ranges of the free axes of an input; None for any size.

    Attributes:
        batch: Images per call.
        height: Rows of the input, px.
        width: Columns of the input, px.
    """

    batch: AxisRange | None = None
    height: AxisRange | None = None
    width: AxisRange | None = None

    @staticmethod
    def of(profiles: Mapping[str, str]) -> InputLimits:
        """Return the limits of an engine that was built with these profiles, such as ``{"batch": "1/1/4"}``.

        Raises:
            UsageError: A profile is invalid.
        """
        return InputLimits(
            *(AxisRange.parse(profiles[axis], axis) if axis in profiles else None for axis in INPUT_AXES)
        )

    @property
    def fewest_images(self) -> int:
        """Fewest images per call."""
        return 1 if self.batch is None else self.batch.minimum

    def takes(self, height: int, width: int) -> bool:
        """Return True if an input may have this size, px."""
        sides = ((self.height, height), (self.width, width))
        return all(limit is None or limit.minimum <= side <= limit.maximum for limit, side in sides)

    def usual(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return an accepted (height, width), px: this one if possible, otherwise the optimum of the profile."""
        if self.takes(*size):
            return size
        height, width = (
            side if limit is None else limit.optimum
            for limit, side in zip((self.height, self.width), size, strict=True)
        )
        return height, width

    def letterbox(self, image: tuple[int, ...], size: tuple[int, int], *, rect: bool, stride: int) -> Letterbox:
        """Return the letterbox of an image, trimming its padding only as far as the input is accepted.

        Args:
            image: (height, width, ...) of the image.
            size: (height, width) of the input, px; with `rect`, at most.
            rect: Trim the padding.
            stride: Coarsest stride of the model, px.
        """
        found = Letterbox.of(image[0], image[1], *size, rect=rect, stride=stride)
        if rect and not self.takes(found.input_height, found.input_width):
            return Letterbox.of(image[0], image[1], *size, rect=False, stride=stride)
        return found

    def images_at_once(self, most: int) -> int:
        """Return the number of images, of at most this many, for one call of the engine."""
        return most if self.batch is None else min(most, self.batch.maximum)

    def __str__(self) -> str:
        sides = (self.height, self.width)
        return " x ".join("any" if side is None else f"{side.minimum} to {side.maximum}" for side in sides)
