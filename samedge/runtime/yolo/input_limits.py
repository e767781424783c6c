"""Input limits of a YOLO engine: an engine accepts only a range of the batch and image sizes that its graph does."""

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
    """Ranges of the free axes of an input; None for any size."""

    batch: AxisRange | None = None
    height: AxisRange | None = None
    width: AxisRange | None = None

    @staticmethod
    def of(profiles: Mapping[str, str]) -> InputLimits:
        """Parse an engine's profiles, such as ``{"batch": "1/1/4"}``; raise UsageError for an invalid one."""
        return InputLimits(
            *(AxisRange.parse(profiles[axis], axis) if axis in profiles else None for axis in INPUT_AXES)
        )

    @property
    def fewest_images(self) -> int:
        """Fewest images per call."""
        return 1 if self.batch is None else self.batch.minimum

    def accepts(self, height: int, width: int) -> bool:
        """Return True if the engine accepts an input of this size, px."""
        sides = ((self.height, height), (self.width, width))
        return all(limit is None or limit.minimum <= side <= limit.maximum for limit, side in sides)

    def usual(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return this (height, width), px, if the engine accepts it, otherwise the optimum of the profile."""
        if self.accepts(*size):
            return size
        height, width = (
            side if limit is None else limit.optimum
            for limit, side in zip((self.height, self.width), size, strict=True)
        )
        return height, width

    def letterbox(self, image: tuple[int, ...], size: tuple[int, int], *, rect: bool, stride: int) -> Letterbox:
        """Return the letterbox of an image of a shape (H, W, ...); with `rect`, trimmed if the engine accepts that."""
        letterbox = Letterbox.of(image[0], image[1], *size, rect=rect, stride=stride)
        if rect and not self.accepts(letterbox.input_height, letterbox.input_width):
            return Letterbox.of(image[0], image[1], *size, rect=False, stride=stride)
        return letterbox

    def images_at_once(self, most: int) -> int:
        """Return the number of images for one call: `most`, or fewer if the engine does not accept that many."""
        return most if self.batch is None else min(most, self.batch.maximum)

    def __str__(self) -> str:
        sides = (self.height, self.width)
        return " x ".join("any" if side is None else f"{side.minimum} to {side.maximum}" for side in sides)
