"""Geometry of the encoder's square input: Meta's ResizeLongestSide, for pixels and for coordinates.

The long side is resized to the side of the square, the image is placed top left, and the rest is zero after
normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from samedge.types import FloatArray, ImageArray


@dataclass(frozen=True, slots=True)
class ImageGeometry:
    """Sizes of an image before and after resizing, px, all at least 1; `image_size` is the side of the square input."""

    height: int
    width: int
    resized_height: int
    resized_width: int
    image_size: int

    @classmethod
    def of(cls, height: int, width: int, image_size: int) -> Self:
        """Return the geometry of an image of this size.

        Meta's ``get_preprocess_shape``: ``int(side * scale + 0.5)``, in double precision. A side that would round to 0
        px (where Meta's code fails) is 1 px.
        """
        scale = image_size * 1.0 / max(height, width)
        resized_height, resized_width = (max(1, int(side * scale + 0.5)) for side in (height, width))
        return cls(height, width, resized_height, resized_width, image_size)

    @classmethod
    def stretched(cls, height: int, width: int, image_size: int) -> Self:
        """Return the geometry of an image that is resized to the whole square, without keeping its aspect ratio."""
        return cls(height, width, image_size, image_size, image_size)

    def to_input(self, xy: NDArray[np.float64]) -> FloatArray:
        """Map coordinates (x, y), ``[..., 2]``, from px of the original image to px of the resized one.

        Each axis has its own scale, as in Meta's ``apply_coords``; computed in float64, returned in float32.
        """
        scale = np.array([self.resized_width / self.width, self.resized_height / self.height])
        scaled: FloatArray = (xy * scale).astype(np.float32)
        return scaled

    def resize(self, pixels: ImageArray) -> ImageArray:
        """Return uint8 ``(H, W, ...)`` as ``(resized_height, resized_width, ...)``.

        Uses PIL's antialiased bilinear filter, as Meta's code does: the result is bit-identical.
        """
        from PIL import Image

        # Channels are reversed after this step, which copies the small image instead of the large one.
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(image.resize((self.resized_width, self.resized_height), Image.Resampling.BILINEAR))

    def pad(self, channels: FloatArray) -> FloatArray:
        """Return ``(C, resized_height, resized_width)`` in the top left of zeros ``(C, image_size, image_size)``."""
        square = np.zeros((len(channels), self.image_size, self.image_size), np.float32)
        square[:, : self.resized_height, : self.resized_width] = channels
        return square


class Normalisation(Protocol):
    """Conversion of pixels to an input, such as `samedge.bundle.manifest.InputRecord`."""

    @property
    def pixel_mean(self) -> tuple[float, float, float]:
        """Subtracted from each channel, RGB, 0..255."""
        ...

    @property
    def pixel_std(self) -> tuple[float, float, float]:
        """Divisor of each channel."""
        ...

    @property
    def stretched(self) -> object:
        """True if the values of each image are stretched to 0..255 before that."""
        ...


MOST_FLAT: Final = 255e-8
"""Range of values, 0..255, below which an image is not stretched any further; MedSAM's 1e-8 of the range."""


def normalised_input(bgr: ImageArray, geometry: ImageGeometry, source: Normalisation) -> FloatArray:
    """Return the native encoder's input: float32 ``[1, 3, S, S]``, RGB, normalised, then padded with zeros.

    Values are stretched, if at all, as in MedSAM: by the least and greatest value of the resized image, of any channel.
    """
    channels = geometry.resize(bgr)[..., ::-1].transpose(2, 0, 1).astype(np.float32)
    if source.stretched is True:
        least, most = channels.min(), channels.max()
        channels = (channels - least) * np.float32(255 / max(most - least, MOST_FLAT))
    channels -= np.asarray(source.pixel_mean, np.float32).reshape(3, 1, 1)
    channels /= np.asarray(source.pixel_std, np.float32).reshape(3, 1, 1)
    return geometry.pad(channels)[None]


def raw_channels(bgr: ImageArray, geometry: ImageGeometry) -> FloatArray:
    """Return float32 ``[1, 3, S, S]``, RGB, 0..255, resized and padded with zeros."""
    return geometry.pad(raw_input(bgr, geometry).transpose(2, 0, 1))[None]


def raw_input(bgr: ImageArray, geometry: ImageGeometry) -> FloatArray:
    """Return the input of samexporter's encoder: float32 ``[H, W, 3]``, RGB, 0..255, resized and not padded."""
    return geometry.resize(bgr)[..., ::-1].astype(np.float32)
