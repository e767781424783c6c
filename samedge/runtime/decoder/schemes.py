"""The graphs of a bundle behind a uniform interface, whatever the names and shapes of their I/O scheme."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

import numpy as np

from samedge.bundle.dialects import DIALECTS, EncoderDialect
from samedge.bundle.manifest import InputRecord, Manifest
from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.dlpack import Exporter
from samedge.engines.protocol import Engine, Value
from samedge.errors import UsageError
from samedge.runtime.decoder.decoders import CONSTANT_FEATURES, Decoder, as_specified, finite, require_names
from samedge.runtime.image.geometry import ImageGeometry, normalised_input, raw_channels, raw_input
from samedge.types import FloatArray, ImageArray


class SamGraphs:
    """Encoder and decoder of one bundle.

    Raises:
        BundleError: The encoder does not have the inputs and outputs of the manifest's I/O scheme.
    """

    def __init__(self, manifest: Manifest, encoder: Engine, decoder: Decoder) -> None:
        self._manifest = manifest
        self._dialect = DIALECTS[manifest.io].encoder
        self.encoder = encoder
        self.decoder = decoder
        self._encoding = Lock()
        require_names(encoder, encoder.inputs, (self._dialect.input,), manifest.io)
        if not set(self._dialect.outputs) <= encoder.outputs.keys():
            require_names(encoder, encoder.outputs, self._dialect.outputs, manifest.io)
        self._embedding = self._dialect.embedding or next(iter(encoder.outputs))
        self._wanted = [self._embedding, *decoder.features]

    def geometry(self, height: int, width: int) -> ImageGeometry:
        """Return the geometry of an image of this size in px."""
        resized = ImageGeometry.stretched if self._dialect.stretches else ImageGeometry.of
        return resized(height, width, self._manifest.input.image_size)

    def prepare(self, bgr: ImageArray, geometry: ImageGeometry) -> FloatArray:
        """Return the encoder's input for an image, BGR uint8 ``(H, W, 3)``."""
        return encoder_input(self._dialect, self.encoder, bgr, geometry, self._manifest.input)

    def encode(self, prepared: FloatArray) -> tuple[FloatArray | DeviceArray, Mapping[str, Value]]:
        """Return the image embedding of a prepared input, ``[1, C, g, g]``, and the decoder's other features by name.

        They stay on the encoder's device if the decoder can read them there; on the host the embedding is float32, and
        EngineError is raised if it is not finite.

        Calls from several threads are serialised: two at once would take twice the memory.
        """
        feeds = as_specified(self.encoder, {self._dialect.input: prepared})
        with self._encoding:
            outputs = self.encoder.run_on_device(feeds, self._wanted)
        features = {name: outputs[name] for name in self.decoder.features}
        return self._for_decoder(outputs[self._embedding]), features

    def constant_features(self) -> Mapping[str, Value]:
        """Return the features of an embedding that came without them, which are those of any image.

        Raises:
            UsageError: They depend on the image.
        """
        missing = [name for name in self.decoder.features if name not in CONSTANT_FEATURES]
        if missing:
            raise UsageError(
                f"the embedding lacks {missing[0]!r}, which this decoder reads too",
                cure="Set the image with set_image, or give the predictor's own embedding",
            )
        if not self.decoder.features:
            return {}
        size = self._manifest.input.image_size
        blank = np.zeros((size, size, 3), np.uint8)
        return self.encode(self.prepare(blank, self.geometry(size, size)))[1]

    def _for_decoder(self, embedding: Value) -> FloatArray | DeviceArray:
        if isinstance(embedding, DeviceArray):
            if embedding.dtype == self.decoder.embedding_spec.dtype:
                return embedding
            embedding = embedding.numpy()
        return finite(embedding.astype(np.float32, copy=False), self.encoder)

    def placed(self, embedding: FloatArray | DeviceArray | Exporter) -> FloatArray | DeviceArray:
        """Return an embedding in the form that `context` accepts, reading another library's array in place.

        Raises:
            TensorMismatchError: It is on another device than the encoder, or has an unsupported dtype or layout.
        """
        if isinstance(embedding, np.ndarray):
            return embedding
        return self.encoder.to_device(embedding)

    def close(self) -> None:
        """Release the graphs. Idempotent."""
        self.encoder.close()
        self.decoder.close()


def encoder_input(
    dialect: EncoderDialect, encoder: Engine, bgr: ImageArray, geometry: ImageGeometry, source: InputRecord
) -> FloatArray:
    """Return the input of an encoder for an image, BGR uint8 ``(H, W, 3)``, as its dialect wants it.

    Args:
        dialect: The record.
        encoder: The graph; an image of integers is 0..255, and one of another size than prompts refer to is resized to
            that.
        bgr: The image.
        geometry: Of the image and the prompts.
        source: Mean and deviation.
    """
    spec = encoder.inputs[dialect.input]
    height, width = spec.shape[-2:]
    if dialect.layout == "hwc":
        return raw_input(bgr, geometry)
    if dialect.layout == "unit":
        resized = geometry.resize(bgr) if isinstance(height, int) else bgr
        pixels = resized[..., ::-1].transpose(2, 0, 1).astype(np.float32)
        return pixels[None] / np.float32(255)
    if isinstance(height, int) and height == width != geometry.image_size:
        geometry = ImageGeometry.of(geometry.height, geometry.width, height)
    if dialect.layout == "pixels" or spec.dtype.kind in "iu":
        return raw_channels(bgr, geometry)
    return normalised_input(bgr, geometry, source)
