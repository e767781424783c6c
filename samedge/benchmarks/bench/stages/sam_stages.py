"""The stages of a SAM, through the predictor that its users call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from samedge.api.load import load
from samedge.benchmarks.bench.records import MaskAgreement
from samedge.benchmarks.bench.stages.family import PreparedModel, probed_agreement
from samedge.benchmarks.bench.stages.peer_protocol import OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.bench.stages.serve import LoadedModel
from samedge.benchmarks.measure.device_memory import device_bytes_of, used_device_bytes
from samedge.benchmarks.measure.rounds import timed
from samedge.bundle.manifest import Manifest
from samedge.engines.cuda.device_array import DeviceArray
from samedge.errors import UsageError
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


class SamBench:
    """The `samedge.benchmarks.bench.stages.family.FamilyBench` of SAM."""

    grid = True
    agreement = "samedge.benchmarks.measure.agreement:prompted_masks"
    judged = "masks shown to a user"

    def kind(self, manifest: Manifest) -> str:
        """See `FamilyBench`."""
        return manifest.model_family.name

    def recorded(self, manifest: Manifest) -> MaskAgreement | None:
        """See `FamilyBench`."""
        return probed_agreement(manifest, "probe set")

    def prepare_graph(self, path: Path) -> PreparedModel:
        """See `FamilyBench`: a SAM is more than one graph."""
        raise UsageError("this is one graph, and a bundle is needed", where=path, cure="Give the bundle it belongs to")

    def open(self, opening: OpenRequest, images: list[ImageArray]) -> LoadedModel:
        """See `FamilyBench`."""
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
        wall, cpu, found = timed(lambda: predictor.everything(images[index], **options))
        told = found.statistics
        return StageTiming(
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
        "prompt": lambda index: prompted(index, points=[opening.points[index]]),
        "boxes": lambda index: prompted(index, boxes=opening.boxes[index]),
        "everything": everything,
    }
