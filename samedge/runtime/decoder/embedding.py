"""Image embeddings on their device, on the host, and on disk, so that an image is encoded only once.

One ``.npz`` file with the embedding, the size of the image, and the model that made it; no pickles.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from samedge.bundle.manifest import Manifest
from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.protocol import Value, shape_fits
from samedge.errors import ImageError
from samedge.runtime.decoder.decoders import on_host
from samedge.runtime.decoder.schemes import SamGraphs
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.image.read import ImageSource, as_bgr
from samedge.runtime.image.value_range import ValueRange
from samedge.storage.atomic import staged_file
from samedge.storage.files import storage_errors
from samedge.types import FloatArray, ImageArray, TensorSpec

_VERSION: Final = 1
_FEATURE: Final = "feature:"
"""Before the names of features in a file."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageEmbedding:
    """An encoded image.

    torch, CuPy and JAX can read it in place through their ``from_dlpack``; it is read-only.

    Attributes:
        values: ``[1, C, g, g]``: float32 on the host, or an array on the encoder's device.
        geometry: Geometry of the image.
        features: Other outputs of the encoder that the decoder reads, by name; empty for most models.
    """

    values: FloatArray | DeviceArray
    geometry: ImageGeometry
    features: Mapping[str, Value] = field(default_factory=dict)

    def numpy(self) -> FloatArray:
        """Return it on the host, float32 ``[1, C, g, g]``, copying it if necessary.

        Raises:
            EngineError: The copy failed.
        """
        if isinstance(self.values, DeviceArray):
            return self.values.numpy().astype(np.float32, copy=False)
        return self.values

    @property
    def device(self) -> str:
        """Its device: "cpu", "cuda:0"."""
        return self.values.device if isinstance(self.values, DeviceArray) else "cpu"

    @property
    def shape(self) -> tuple[int, ...]:
        """``(1, C, g, g)``."""
        return self.values.shape

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, number = self.values.__dlpack_device__()
        return int(kind), int(number)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        values: Any = self.values
        given = {"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": copy}
        return values.__dlpack__(**{name: value for name, value in given.items() if value is not None})


def check_embedding(values: FloatArray | DeviceArray, height: int, width: int, spec: TensorSpec, where: object) -> None:
    """Raise ImageError for an embedding that a decoder does not accept, or one of an image without pixels."""
    if values.dtype != np.float32 or not shape_fits(values.shape, spec) or min(height, width) < 1:
        raise ImageError(
            f"the embedding is {values.dtype}{list(values.shape)} of a {width} x {height} px image, but the "
            f"decoder expects {spec}",
            where=where,
            cure="Set the image with this model and take its embedding again",
        )


def write_embedding(path: Path, embedding: ImageEmbedding, manifest: Manifest) -> None:
    """Write an embedding to exactly this path, atomically; raise StorageError if that fails."""
    features: dict[str, Any] = {_FEATURE + name: on_host(value) for name, value in embedding.features.items()}
    with staged_file(path) as stage, storage_errors(path), stage.open("wb") as file:
        np.savez(
            file,
            version=np.int64(_VERSION),
            embedding=embedding.numpy(),
            image_height=np.int64(embedding.geometry.height),
            image_width=np.int64(embedding.geometry.width),
            input_size=np.int64(embedding.geometry.image_size),
            model=np.str_(manifest.model.name),
            checkpoint_sha256=np.str_(manifest.model.checkpoint_sha256),
            io=np.str_(manifest.io),
            **features,
        )


def read_embedding(path: Path, manifest: Manifest) -> ImageEmbedding:
    """Read an embedding of the manifest's model, computed by any of its graphs.

    Raises:
        ImageError: The file is not an embedding, is damaged, or is of another model or input size.
        StorageError: It cannot be read.
    """
    try:
        with storage_errors(path, "read"), path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            version = int(saved["version"])
            values = saved["embedding"]
            height, width = int(saved["image_height"]), int(saved["image_width"])
            input_size = int(saved["input_size"])
            model, digest = str(saved["model"]), str(saved["checkpoint_sha256"])
            features = {name[len(_FEATURE) :]: saved[name] for name in saved.files if name.startswith(_FEATURE)}
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ImageError(
            f"not an embedding saved by samedge, or damaged ({error})",
            where=path,
            cure="Set the image and save its embedding again",
        ) from error
    cure = "Set the image with this model and save its embedding again"
    if version != _VERSION:
        message = f"the embedding has format {version}, but this samedge reads {_VERSION}"
        raise ImageError(message, where=path, cure=cure)
    if digest != manifest.model.checkpoint_sha256 or input_size != manifest.input.image_size:
        raise ImageError(
            f"the embedding is of another model: {model} at {input_size} px with checkpoint {digest[:12]}, but this is "
            f"{manifest.model.name} at {manifest.input.image_size} px with {manifest.model.checkpoint_sha256[:12]}",
            where=path,
            cure=cure,
            model=model,
        )
    if values.dtype != np.float32 or not np.isfinite(values).all() or min(height, width) < 1:
        raise ImageError("the embedding is damaged: not finite float32 values of an image", where=path, cure=cure)
    return ImageEmbedding(values, ImageGeometry.of(height, width, input_size), features)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """An image as held by a predictor, and the time for it."""

    embedding: ImageEmbedding
    pixels: ImageArray | None
    """BGR uint8 ``(H, W, 3)``; None if not kept."""
    preprocess_ms: float
    """For reading, resizing and normalising."""
    encode_ms: float


def encode_image(graphs: SamGraphs, source: ImageSource, value_range: ValueRange = None) -> EncodedImage:
    """Read and encode an image."""
    start = perf_counter()
    bgr = as_bgr(source, value_range)
    geometry = graphs.geometry(*bgr.shape[:2])
    prepared = graphs.prepare(bgr, geometry)
    ready = perf_counter()
    values, features = graphs.encode(prepared)
    done = perf_counter()
    return EncodedImage(ImageEmbedding(values, geometry, features), bgr, (ready - start) * 1e3, (done - ready) * 1e3)
