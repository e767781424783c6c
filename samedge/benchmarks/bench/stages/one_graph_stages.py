"""Stages of families of one graph. Prompts select among the masks that the graph has already found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from samedge.api.load import load
from samedge.benchmarks.bench.stages.family import BundleBench
from samedge.benchmarks.bench.stages.peer_protocol import OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.bench.stages.serve import LoadedModel, timed_stage
from samedge.engines.protocol import Engine
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.one_graph import OneGraphPredictor, feed_of
from samedge.runtime.results.choose import choose
from samedge.runtime.results.results import Results
from samedge.types import Array, ImageArray

INCLUDES: Final = {
    "preprocess": "resize, normalise and pad, from BGR pixels",
    "encode": "the whole network",
    "prompt": "masks of everything that the network found, and the choice among them by one click",
    "boxes": "masks of everything that the network found, and the choice among them by 32 boxes",
    "everything": "from BGR pixels: network and masks at the size of the image",
}


class OneGraphBench(BundleBench):
    """The `samedge.benchmarks.bench.stages.family.FamilyBench` of families of one graph."""

    def open(self, opening: OpenRequest, images: list[ImageArray]) -> LoadedModel:
        """Load a bundle."""
        loaded = load(opening.artefact, opening.backend, opening.device, threads=opening.threads, force=True)
        predictor = cast("OneGraphPredictor", loaded)
        source, engine = predictor.info.input, predictor.engine
        sizes = [ImageGeometry.of(image.shape[0], image.shape[1], source.image_size) for image in images]
        stages = graph_stages(
            opening,
            engine,
            feed=lambda index: feed_of(images[index], sizes[index], source, engine),
            results=lambda index, outputs: predictor.results(images[index], sizes[index], outputs),
            everything=lambda index: predictor.predict(images[index]),
        )
        opened = OpenedModel(
            stages=INCLUDES,
            image_stages=("everything",),
            backend=predictor.backend,
            device=predictor.device,
            details=dict(engine.details),
        )
        return LoadedModel(opened, stages, predictor.close)


def graph_stages(
    opening: OpenRequest,
    engine: Engine,
    *,
    feed: Callable[[int], dict[str, Array]],
    results: Callable[[int, Mapping[str, Array]], Results],
    everything: Callable[[int], Results],
    begun: Callable[[], tuple[float, float]] | None = None,
) -> dict[str, Callable[[int], StageTiming]]:
    """Return the stages of a model of one graph, each a function of the image's index.

    Args:
        opening: The request, with the prompts.
        engine: The graph.
        feed: Returns its inputs for an image.
        results: Turns its outputs for an image into results.
        everything: Returns the results of an image.
        begun: Returns the clocks at the start of the work in `results`, if it does not begin at once.
    """
    outputs: dict[int, Mapping[str, Array]] = {}

    def encode(index: int) -> StageTiming:
        feeds = feed(index)
        timing, outputs[index] = timed_stage(lambda: engine.run(feeds))
        return timing

    def prompt(index: int, **prompts: Any) -> StageTiming:
        if index not in outputs:
            outputs[index] = engine.run(feed(index))
        return timed_stage(lambda: choose(results(index, outputs[index]), **prompts), len, begun=begun)[0]

    return {
        "preprocess": lambda index: timed_stage(lambda: feed(index))[0],
        "encode": encode,
        "prompt": lambda index: prompt(index, points=[opening.points[index]]),
        "boxes": lambda index: prompt(index, bboxes=opening.boxes[index]),
        "everything": lambda index: timed_stage(lambda: everything(index), len)[0],
    }
