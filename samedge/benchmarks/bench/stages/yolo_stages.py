"""Stages of YOLO and FastSAM. Their prompts select among the masks that the network has already found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from samedge.api.yolo import YOLO, FastSAM
from samedge.benchmarks.bench.stages.peer_protocol import OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.bench.stages.serve import LoadedModel
from samedge.benchmarks.measure.device_memory import used_device_bytes
from samedge.benchmarks.measure.rounds import process_clocks, timed
from samedge.engines.protocol import Engine
from samedge.runtime.image.letterbox import Letterbox
from samedge.runtime.results.results import Results
from samedge.runtime.yolo.fastsam import choose, snap_to_border
from samedge.runtime.yolo.graph import YoloGraph
from samedge.runtime.yolo.predictor import YoloPredictor
from samedge.testing.engine import fake_engine
from samedge.types import Array, ImageArray

INCLUDES: Final = {
    "preprocess": "letterbox, from BGR pixels",
    "encode": "the whole network",
    "everything": "from BGR pixels: letterbox, network, suppression, masks at image size",
}
_CHOOSING: Final = "suppression, masks of all objects found, and the selection among them"
NO_PROMPTS: Final = "the model takes no prompts"


def open_yolo(opening: OpenRequest, images: list[ImageArray]) -> LoadedModel:
    """Load a YOLO or FastSAM model.

    Args:
        opening: The request.
        images: The images.

    Raises:
        SamedgeError: The model cannot be loaded.
    """
    from samedge.benchmarks.measure.device_memory import device_bytes_of

    prompted = opening.family == "fastsam"
    before = used_device_bytes(None)
    model = (FastSAM if prompted else YOLO)(
        opening.artefact, backend=opening.backend, device=opening.device, threads=opening.threads, force=True
    )
    predictor = model.predictor
    stages = _stages(opening, model, images, prompted=prompted)
    choosing = {"prompt": f"{_CHOOSING} by one click", "boxes": f"{_CHOOSING} by 32 boxes"}
    opened = OpenedModel(
        stages={name: {**INCLUDES, **choosing}[name] for name in stages},
        without={} if prompted else dict.fromkeys(("prompt", "boxes"), NO_PROMPTS),
        image_stages=("everything",),
        backend=predictor.engine.backend,
        device=predictor.engine.device,
        details=dict(predictor.engine.details),
    )
    return LoadedModel(opened, stages, model.close, device_bytes_of(opened.device, before))


class _Replay:
    """A predictor whose network returns stored outputs at once, so that the work after the network can be timed.

    Args:
        engine: The network.
        graph: Description of its inputs and outputs.
    """

    def __init__(self, engine: Engine, graph: YoloGraph) -> None:
        self.outputs: Mapping[str, Array] = {}
        self._clocks = (0.0, 0.0)
        self.predictor = YoloPredictor(fake_engine(engine.inputs, engine.outputs, self._run), graph)

    def _run(self, _: Mapping[str, Array]) -> Mapping[str, Array]:
        self._clocks = process_clocks()
        return self.outputs

    def begun(self) -> tuple[float, float]:
        """Return the clocks at the time of the network's outputs."""
        return self._clocks


def _stages(
    opening: OpenRequest, model: YOLO, images: list[ImageArray], *, prompted: bool
) -> dict[str, Callable[[int], StageTiming]]:
    engine, graph = model.predictor.engine, model.predictor.graph
    replay = _Replay(engine, graph)
    outputs: dict[int, Mapping[str, Array]] = {}

    def feed_of(image: ImageArray) -> dict[str, Array]:
        (rows, columns), (height, width) = image.shape[:2], graph.image_size
        box = Letterbox.of(rows, columns, height, width, rect=not graph.fixed_size, stride=graph.stride)
        feed: Array = box.input(image)
        return {graph.input: feed.astype("float16") if graph.half else feed}

    def preprocess(index: int) -> StageTiming:
        wall, cpu, _ = timed(lambda: feed_of(images[index]))
        return StageTiming(wall, cpu)

    def encode(index: int) -> StageTiming:
        feeds = feed_of(images[index])
        wall, cpu, outputs[index] = timed(lambda: engine.run(feeds))
        return StageTiming(wall, cpu)

    def prompt(index: int, **prompts: Any) -> StageTiming:
        if index not in outputs:
            outputs[index] = engine.run(feed_of(images[index]))
        replay.outputs = outputs[index]

        def chosen() -> Results:
            return choose(snap_to_border(replay.predictor.predict(images[index])), **prompts)

        wall, cpu, results = timed(chosen, begun=replay.begun)
        return StageTiming(wall, cpu, figures={"masks": len(results)})

    def everything(index: int) -> StageTiming:
        wall, cpu, results = timed(lambda: model.predict(images[index]))
        return StageTiming(wall, cpu, figures={"masks": len(results[0])})

    stages: dict[str, Callable[[int], StageTiming]] = {
        "preprocess": preprocess, "encode": encode, "everything": everything,
    }  # fmt: skip
    if prompted:
        stages |= {
            "prompt": lambda index: prompt(index, points=[opening.points[index]]),
            "boxes": lambda index: prompt(index, bboxes=opening.boxes[index]),
        }
    return stages
