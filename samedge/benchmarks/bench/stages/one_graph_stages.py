"""The stages of a family of one graph. Its prompts choose among masks that the graph has found already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from samedge.api.load import load
from samedge.benchmarks.bench.records import MaskAgreement
from samedge.benchmarks.bench.stages.family import PreparedModel, probed_agreement
from samedge.benchmarks.bench.stages.peer_protocol import OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.bench.stages.serve import LoadedModel
from samedge.benchmarks.measure.device_memory import device_bytes_of, used_device_bytes
from samedge.benchmarks.measure.rounds import timed
from samedge.bundle.manifest import Manifest
from samedge.errors import UsageError
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.one_graph import OneGraphPredictor, feed_of
from samedge.runtime.results.choose import choose
from samedge.types import Array, ImageArray

INCLUDES: Final = {
    "preprocess": "resize, normalise and pad, from BGR pixels",
    "encode": "the whole network",
    "prompt": "masks of everything that the network found, and the choice among them by one click",
    "boxes": "masks of everything that the network found, and the choice among them by 32 boxes",
    "everything": "from BGR pixels: network and masks at the size of the image",
}


class OneGraphBench:
    """The `samedge.benchmarks.bench.stages.family.FamilyBench` of families of one graph."""

    grid = False
    agreement = ""
    judged = ""

    def kind(self, manifest: Manifest) -> str:
        """See `FamilyBench`."""
        return manifest.model_family.name

    def recorded(self, manifest: Manifest) -> MaskAgreement | None:
        """See `FamilyBench`."""
        return probed_agreement(manifest, "probe images")

    def prepare_graph(self, path: Path) -> PreparedModel:
        """See `FamilyBench`: its graph file does not tell what it is."""
        raise UsageError("this is one graph, and a bundle is needed", where=path, cure="Give the bundle it belongs to")

    def open(self, opening: OpenRequest, pictures: list[ImageArray]) -> LoadedModel:
        """See `FamilyBench`."""
        before = used_device_bytes(None)
        predictor = cast(
            "OneGraphPredictor",
            load(opening.artefact, opening.backend, opening.device, threads=opening.threads, force=True),
        )
        opened = OpenedModel(
            stages=INCLUDES,
            image_stages=("everything",),
            backend=predictor.backend,
            device=predictor.device,
            details=dict(predictor.engine.details),
        )
        stages = _stages(opening, predictor, pictures)
        return LoadedModel(opened, stages, predictor.close, device_bytes_of(predictor.device, before))


def _stages(
    opening: OpenRequest, predictor: OneGraphPredictor, pictures: list[ImageArray]
) -> dict[str, Callable[[int], StageTiming]]:
    source, engine = predictor.info.input, predictor.engine
    sizes = [ImageGeometry.of(image.shape[0], image.shape[1], source.image_size) for image in pictures]
    outputs: dict[int, Mapping[str, Array]] = {}

    def feed(picture: int) -> dict[str, Array]:
        return feed_of(pictures[picture], sizes[picture], source, engine)

    def preprocess(picture: int) -> StageTiming:
        wall, cpu, _ = timed(lambda: feed(picture))
        return StageTiming(wall, cpu)

    def encode(picture: int) -> StageTiming:
        prepared = feed(picture)
        wall, cpu, outputs[picture] = timed(lambda: engine.run(prepared))
        return StageTiming(wall, cpu)

    def prompt(picture: int, **prompts: Any) -> StageTiming:
        if picture not in outputs:
            outputs[picture] = engine.run(feed(picture))
        image, size, said = pictures[picture], sizes[picture], outputs[picture]
        wall, cpu, found = timed(lambda: choose(predictor.results(image, size, said), **prompts))
        return StageTiming(wall, cpu, figures={"masks": len(found)})

    def everything(picture: int) -> StageTiming:
        wall, cpu, found = timed(lambda: predictor.predict(pictures[picture]))
        return StageTiming(wall, cpu, figures={"masks": len(found)})

    return {
        "preprocess": preprocess,
        "encode": encode,
        "prompt": lambda picture: prompt(picture, points=[opening.points[picture]]),
        "boxes": lambda picture: prompt(picture, bboxes=opening.boxes[picture]),
        "everything": everything,
    }
