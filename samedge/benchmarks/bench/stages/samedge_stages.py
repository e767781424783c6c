"""Stages of samedge's own models, through its public classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from samedge.api.load import load
from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Capabilities, OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.bench.stages.serve import LoadedModel
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
    "prompt": "the decoder's work per image, one click, its mask at image size",
    "boxes": "the decoder's work per image, 32 boxes, their masks at image size",
    "everything": "from BGR pixels: encoder, a grid of clicks, filters, masks as RLE",
}


def hello() -> Capabilities:
    """Report that this package is available."""
    return Capabilities(PROTOCOL, "samedge", __version__)


def open_model(opening: OpenRequest) -> LoadedModel:
    """Load a bundle or a graph of samedge.

    Raises:
        SamedgeError: The model cannot be loaded.
    """
    images = [as_bgr(path) for path in opening.images]
    if opening.family != "sam":
        from samedge.benchmarks.bench.stages.yolo_stages import open_yolo

        return open_yolo(opening, images)
    before = used_device_bytes(None)
    predictor = load(opening.artefact, opening.backend, opening.device, threads=opening.threads, force=True)
    stages = _stages(opening, predictor, images)
    encoder = predictor.graphs.encoder
    opened = OpenedModel(
        stages={name: INCLUDES[name] for name in stages},
        image_stages=("preprocess", "encode", "prompt"),
        backend=predictor.backend,
        device=predictor.device,
        details=dict(encoder.details),
    )
    return LoadedModel(opened, stages, predictor.close, device_bytes_of(predictor.device, before))


def _stages(
    opening: OpenRequest, predictor: Predictor, images: list[ImageArray]
) -> dict[str, Callable[[int], StageTiming]]:
    inputs: dict[int, FloatArray] = {}
    embeddings: dict[int, FloatArray | DeviceArray] = {}

    def geometry_of(image: ImageArray) -> ImageGeometry:
        return ImageGeometry.of(image.shape[0], image.shape[1], predictor.info.input.image_size)

    def input_of(index: int) -> FloatArray:
        if index not in inputs:
            geometry = geometry_of(images[index])
            inputs[index] = predictor.graphs.prepare(images[index], geometry)
        return inputs[index]

    def show(index: int) -> None:
        """Make an image the current one, with no decoder work done for it yet."""
        if index not in embeddings:
            embeddings[index] = predictor.graphs.run_encoder(input_of(index))
        predictor.set_embedding(embeddings[index], *images[index].shape[:2])

    def preprocess(index: int) -> StageTiming:
        image = images[index]
        wall, cpu, _ = timed(lambda: predictor.graphs.prepare(image, geometry_of(image)))
        return StageTiming(wall, cpu)

    def encode(index: int) -> StageTiming:
        prepared = input_of(index)
        wall, cpu, embeddings[index] = timed(lambda: predictor.graphs.run_encoder(prepared))
        return StageTiming(wall, cpu)

    def prompted(index: int, **prompts: Any) -> StageTiming:
        show(index)
        wall, cpu, masks = timed(lambda: predictor.predict(**prompts).masks)
        return StageTiming(wall, cpu, figures={"masks": len(masks)})

    def everything(index: int) -> StageTiming:
        options: dict[str, Any] = {**opening.everything, "mode": opening.mode}
        wall, cpu, masks = timed(lambda: predictor.everything(images[index], **options))
        names = ("points", "decoder_prompts", "decoder_calls", "masks_drawn", "masks_upscaled")
        counts = {name: getattr(masks.statistics, name) for name in names}
        return StageTiming(wall, cpu, figures={"masks": len(masks), **counts})

    return {
        "preprocess": preprocess,
        "encode": encode,
        "prompt": lambda index: prompted(index, points=[opening.points[index]]),
        "boxes": lambda index: prompted(index, boxes=opening.boxes[index]),
        "everything": everything,
    }
