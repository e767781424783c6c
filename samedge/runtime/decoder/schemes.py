"""The graphs of a bundle behind a uniform interface, whatever the names and shapes of their I/O scheme."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Final

import numpy as np

from samedge.bundle.manifest import GraphRecord, Manifest, TensorRecord
from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.dlpack import Exporter
from samedge.engines.protocol import Engine
from samedge.errors import IntegrityError
from samedge.runtime.decoder.decoders import Decoder, as_specified, require_names
from samedge.runtime.image.geometry import ImageGeometry, normalised_input, raw_input
from samedge.types import FloatArray, ImageArray, IOScheme, TensorSpec

_ENCODER_INPUT: Final[dict[IOScheme, str]] = {"native": "image", "meta": "image", "samexporter": "input_image"}


class SamGraphs:
    """Encoder and decoder of one bundle.

    Raises:
        BundleError: The encoder does not have the inputs and outputs of the manifest's I/O scheme.
    """

    def __init__(self, manifest: Manifest, encoder: Engine, decoder: Decoder) -> None:
        self._manifest = manifest
        self.encoder = encoder
        self.decoder = decoder
        self._encoding = Lock()
        require_names(encoder, encoder.inputs, (_ENCODER_INPUT[manifest.io],), manifest.io)
        require_names(encoder, encoder.outputs, ("image_embeddings",), manifest.io)

    def prepare(self, bgr: ImageArray, geometry: ImageGeometry) -> FloatArray:
        """Return the encoder's input for an image, BGR uint8 ``(H, W, 3)``."""
        record = self._manifest.input
        if self._manifest.io == "samexporter":
            return raw_input(bgr, geometry)
        return normalised_input(bgr, geometry, record.pixel_mean, record.pixel_std)

    def run_encoder(self, prepared: FloatArray) -> FloatArray | DeviceArray:
        """Return the image embedding of a prepared input, ``[1, C, g, g]``.

        It stays on the encoder's device if the decoder can read it there; on the host it is float32.

        Calls from several threads are serialised: two at once would take twice the memory.
        """
        name = _ENCODER_INPUT[self._manifest.io]
        feeds = as_specified(self.encoder, {name: prepared})
        with self._encoding:
            embedding = self.encoder.run_on_device(feeds, ["image_embeddings"])["image_embeddings"]
        if isinstance(embedding, DeviceArray):
            if embedding.dtype == self.decoder.embedding_spec.dtype:
                return embedding
            embedding = embedding.numpy()
        return embedding.astype(np.float32, copy=False)

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


def check_graph(record: GraphRecord, engine: Engine) -> None:
    """Raise IntegrityError if a name, dtype or shape of a graph's inputs and outputs differs from the manifest."""
    _check_ports("input", record.inputs, engine.inputs, engine.name)
    _check_ports("output", record.outputs, engine.outputs, engine.name)


def _check_ports(kind: str, recorded: Mapping[str, TensorRecord], real: Mapping[str, TensorSpec], where: str) -> None:
    cure = "Copy the bundle again, or export the checkpoint again"
    for name in sorted(recorded.keys() | real.keys()):
        if name not in real or name not in recorded:
            owner, other = ("manifest", "graph") if name in recorded else ("graph", "manifest")
            message = f"the {owner} has the {kind} {name!r} but the {other} lacks it"
            raise IntegrityError(message, where=where, cure=cure)
        have, want = real[name], recorded[name]
        # A size free in only one of them is no contradiction: backends differ in shape inference.
        differs = have.dtype.name != want.dtype or len(have.shape) != len(want.shape)
        sizes = zip(have.shape, want.shape, strict=False)
        if differs or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes):
            axes = ", ".join(map(str, want.shape))
            message = f"the {kind} {name!r} is {have} in the graph but {want.dtype}[{axes}] in the manifest"
            raise IntegrityError(message, where=where, cure=cure)
