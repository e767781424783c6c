"""From a picture to what the encoder makes of it, with the times of both steps; holds no state."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

from samedge.runtime.embedding import ImageEmbedding
from samedge.runtime.geometry import ImageGeometry
from samedge.runtime.image import ImageSource, as_bgr
from samedge.runtime.schemes import SamGraphs
from samedge.types import ImageArray


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """An image as a predictor keeps it.

    Attributes:
        embedding: What the encoder made of it, and its geometry.
        pixels: BGR uint8 ``(H, W, 3)``; None where they are not kept.
        preprocess_ms: For reading, resizing and normalising.
        encode_ms: For the encoder.
    """

    embedding: ImageEmbedding
    pixels: ImageArray | None
    preprocess_ms: float
    encode_ms: float


def encode_image(graphs: SamGraphs, source: ImageSource, image_size: int) -> EncodedImage:
    """Reads and encodes an image.

    Args:
        graphs: Of the bundle.
        source: As in `samedge.runtime.image.as_bgr`.
        image_size: Side of the encoder's square input, px.

    Raises:
        ImageError: The image cannot be read or used.
        EngineError: The encoder failed.
    """
    start = perf_counter()
    bgr = as_bgr(source)
    geometry = ImageGeometry.of(bgr.shape[0], bgr.shape[1], image_size)
    prepared = graphs.prepare(bgr, geometry)
    ready = perf_counter()
    values = graphs.run_encoder(prepared)
    done = perf_counter()
    return EncodedImage(ImageEmbedding(values, geometry), bgr, (ready - start) * 1e3, (done - ready) * 1e3)
