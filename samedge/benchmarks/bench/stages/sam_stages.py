"""Stages of SAM, through the predictor that users call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from samedge.api.load import load
from samedge.benchmarks.bench.stages.family import BundleBench
from samedge.benchmarks.bench.stages.peer_protocol import OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.bench.stages.serve import LoadedModel, timed_stage
from samedge.benchmarks.measure.thresholds import everything_figures
from samedge.runtime.decoder.embedding import ImageEmbedding
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.predictor import Predictor
from samedge.types import FloatArray, ImageArray

INCLUDES: Final = {
    "preprocess": "resize, normalise and pad, from BGR pixels",
    "encode": "the encoder graph alone",
    "prompt": "the decoder's work per image, one click, its mask at image size",
    "boxes": "the decoder's work per image, 32 boxes, their masks at image size",
    "everything": "from BGR pixels: encoder, a grid of clicks, filters, masks as RLE",
}


class SamBench(BundleBench):
    """The `samedge.benchmarks.bench.stages.family.FamilyBench` of SAM."""

    grid = True
    agreement = "samedge.benchmarks.measure.agreement:prompted_masks"
    judged = "masks shown to a user"
    probes = "probe set"

    def open(self, opening: OpenRequest, images: list[ImageArray]) -> LoadedModel:
        """Load a bundle."""
        predictor = load(opening.artefact, opening.backend, opening.device, threads=opening.threads, force=True)
        opened = OpenedModel(
            stages=INCLUDES,
            image_stages=("preprocess", "encode", "prompt"),
            backend=predictor.backend,
            device=predictor.device,
            details=dict(predictor.graphs.encoder.details),
        )
        return LoadedModel(opened, _stages(opening, predictor, images), predictor.close)


def _stages(
    opening: OpenRequest, predictor: Predictor, images: list[ImageArray]
) -> dict[str, Callable[[int], StageTiming]]:
    inputs: dict[int, FloatArray] = {}
    embeddings: dict[int, ImageEmbedding] = {}

    def geometry(index: int) -> ImageGeometry:
        return predictor.graphs.geometry(*images[index].shape[:2])

    def preprocess(index: int) -> StageTiming:
        placed = geometry(index)
        timing, inputs[index] = timed_stage(lambda: predictor.graphs.prepare(images[index], placed))
        return timing

    def encode(index: int) -> StageTiming:
        if index not in inputs:
            preprocess(index)
        timing, (values, features) = timed_stage(lambda: predictor.graphs.encode(inputs[index]))
        embeddings[index] = ImageEmbedding(values, geometry(index), features)
        return timing

    def prompted(index: int, **prompts: Any) -> StageTiming:
        if index not in embeddings:
            encode(index)
        # The decoder has not yet done its work per image for an embedding that was set.
        predictor.set_embedding(embeddings[index], *images[index].shape[:2])
        return timed_stage(lambda: predictor.predict(**prompts).masks, len)[0]

    def everything(index: int) -> StageTiming:
        options: dict[str, Any] = {**opening.everything, "mode": opening.mode}
        timing, found = timed_stage(lambda: predictor.everything(images[index], **options))
        return replace(timing, figures={"masks": len(found), **everything_figures(found)})

    return {
        "preprocess": preprocess,
        "encode": encode,
        "prompt": lambda index: prompted(index, points=[opening.points[index]]),
        "boxes": lambda index: prompted(index, boxes=opening.boxes[index]),
        "everything": everything,
    }
