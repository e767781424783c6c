"""The stages of samedge's own models, through the classes that its users call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from samedge.api.load import load
from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Hello, Opened, Opening, Ran
from samedge.benchmarks.bench.stages.serve import Loaded
from samedge.benchmarks.measure.device_memory import device_bytes_of, used_device_bytes
from samedge.benchmarks.measure.rounds import timed
from samedge.engines.cuda.device_array import DeviceArray
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.image.read import as_bgr
from samedge.runtime.predictor import Predictor
from samedge.types import FloatArray, ImageArray
from samedge.version import __version__

INCLUDES: Final = {
    "preprocess": "resize, normalise and pad, from BGR pixels",
    "encode": "the encoder graph alone",
    "prompt": "what the decoder does once an image, one click, its mask at the size of the image",
    "boxes": "what the decoder does once an image, 32 boxes, their masks at the size of the image",
    "everything": "from BGR pixels: encoder, a grid of clicks, filters, masks as RLE",
}


def hello() -> Hello:
    """This package can always be asked."""
    return Hello(PROTOCOL, "samedge", __version__)


def open_model(opening: Opening) -> Loaded:
    """Load a bundle or a graph of samedge.

    Raises:
        SamedgeError: It cannot be loaded.
    """
    pictures = [as_bgr(path) for path in opening.images]
    if opening.family != "sam":
        from samedge.benchmarks.bench.stages.yolo_stages import open_yolo

        return open_yolo(opening, pictures)
    before = used_device_bytes(None)
    predictor = load(opening.artefact, opening.backend, opening.device, threads=opening.threads, force=True)
    stages = _stages(opening, predictor, pictures)
    encoder = predictor.graphs.encoder
    opened = Opened(
        stages={name: INCLUDES[name] for name in stages},
        image_stages=("preprocess", "encode", "prompt"),
        backend=predictor.backend,
        device=predictor.device,
        details=dict(encoder.details),
    )
    return Loaded(opened, stages, predictor.close, device_bytes_of(predictor.device, before))


def _stages(opening: Opening, predictor: Predictor, pictures: list[ImageArray]) -> dict[str, Callable[[int], Ran]]:
    inputs: dict[int, FloatArray] = {}
    embeddings: dict[int, FloatArray | DeviceArray] = {}

    def geometry_of(image: ImageArray) -> ImageGeometry:
        return ImageGeometry.of(image.shape[0], image.shape[1], predictor.info.input.image_size)

    def input_of(picture: int) -> FloatArray:
        if picture not in inputs:
            geometry = geometry_of(pictures[picture])
            inputs[picture] = predictor.graphs.prepare(pictures[picture], geometry)
        return inputs[picture]

    def show(picture: int) -> None:
        """Make a picture the present one, and nothing of the decoder done for it."""
        if picture not in embeddings:
            embeddings[picture] = predictor.graphs.run_encoder(input_of(picture))
        predictor.set_embedding(embeddings[picture], *pictures[picture].shape[:2])

    def preprocess(picture: int) -> Ran:
        image = pictures[picture]
        wall, cpu, _ = timed(lambda: predictor.graphs.prepare(image, geometry_of(image)))
        return Ran(wall, cpu)

    def encode(picture: int) -> Ran:
        prepared = input_of(picture)
        wall, cpu, embeddings[picture] = timed(lambda: predictor.graphs.run_encoder(prepared))
        return Ran(wall, cpu)

    def prompted(picture: int, **prompts: Any) -> Ran:
        show(picture)
        wall, cpu, masks = timed(lambda: predictor.predict(**prompts).masks)
        return Ran(wall, cpu, figures={"masks": len(masks)})

    def everything(picture: int) -> Ran:
        options: dict[str, Any] = {**opening.everything, "mode": opening.mode}
        wall, cpu, found = timed(lambda: predictor.everything(pictures[picture], **options))
        told = found.statistics
        return Ran(
            wall,
            cpu,
            figures={
                "masks": len(found), "points": told.points, "decoder_prompts": told.decoder_prompts,
                "decoder_calls": told.decoder_calls, "masks_drawn": told.masks_drawn,
                "masks_upscaled": told.masks_upscaled,
            },
        )  # fmt: skip

    return {
        "preprocess": preprocess,
        "encode": encode,
        "prompt": lambda picture: prompted(picture, points=[opening.points[picture]]),
        "boxes": lambda picture: prompted(picture, boxes=opening.boxes[picture]),
        "everything": everything,
    }
