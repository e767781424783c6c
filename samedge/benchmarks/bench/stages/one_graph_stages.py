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

    def open(self, opening: OpenRequest, images: list[ImageArray]) -> LoadedModel:
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
        stages = _stages(opening, predictor, images)
        return LoadedModel(opened, stages, predictor.close, device_bytes_of(predictor.device, before))


def _stages(
    opening: OpenRequest, predictor: OneGraphPredictor, images: list[ImageArray]
) -> dict[str, Callable[[int], StageTiming]]:
    source, engine = predictor.info.input, predictor.engine
    sizes = [ImageGeometry.of(image.shape[0], image.shape[1], source.image_size) for image in images]
    outputs: dict[int, Mapping[str, Array]] = {}

    def feed(index: int) -> dict[str, Array]:
        return feed_of(images[index], sizes[index], source, engine)

    def preprocess(index: int) -> StageTiming:
        wall, cpu, _ = timed(lambda: feed(index))
        return StageTiming(wall, cpu)

    def encode(index: int) -> StageTiming:
        prepared = feed(index)
        wall, cpu, outputs[index] = timed(lambda: engine.run(prepared))
        return StageTiming(wall, cpu)

    def prompt(index: int, **prompts: Any) -> StageTiming:
        if index not in outputs:
            outputs[index] = engine.run(feed(index))
        image, size, said = images[index], sizes[index], outputs[index]
        wall, cpu, found = timed(lambda: choose(predictor.results(image, size, said), **prompts))
        return StageTiming(wall, cpu, figures={"masks": len(found)})

    def everything(index: int) -> StageTiming:
        wall, cpu, found = timed(lambda: predictor.predict(images[index]))
        return StageTiming(wall, cpu, figures={"masks": len(found)})

    return {
        "preprocess": preprocess,
        "encode": encode,
        "prompt": lambda index: prompt(index, points=[opening.points[index]]),
        "boxes": lambda index: prompt(index, bboxes=opening.boxes[index]),
        "everything": everything,
    }
