"""The stages of YOLO and FastSAM. Their prompts choose among masks that the network has found already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from samedge.api.yolo import YOLO, FastSAM
from samedge.benchmarks.bench.stages.peer_protocol import Opened, Opening, Ran
from samedge.benchmarks.bench.stages.serve import Loaded
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
    "everything": "from BGR pixels: letterbox, network, suppression, masks at the size of the image",
}
_CHOOSING: Final = "suppression and masks of everything that the network found, and the choice among them"
NO_PROMPTS: Final = "it takes no prompts"


def open_yolo(opening: Opening, pictures: list[ImageArray]) -> Loaded:
    """Load a YOLO or FastSAM.

    Args:
        opening: What was asked for.
        pictures: The pictures.

    Raises:
        SamedgeError: It cannot be loaded.
    """
    from samedge.benchmarks.measure.device_memory import device_bytes_of

    prompted = opening.family == "fastsam"
    before = used_device_bytes(None)
    model = (FastSAM if prompted else YOLO)(
        opening.artefact, backend=opening.backend, device=opening.device, threads=opening.threads, force=True
    )
    predictor = model.predictor
    stages = _stages(opening, model, pictures, prompted=prompted)
    choosing = {"prompt": f"{_CHOOSING} by one click", "boxes": f"{_CHOOSING} by 32 boxes"}
    opened = Opened(
        stages={name: {**INCLUDES, **choosing}[name] for name in stages},
        without={} if prompted else dict.fromkeys(("prompt", "boxes"), NO_PROMPTS),
        image_stages=("everything",),
        backend=predictor.engine.backend,
        device=predictor.engine.device,
        details=dict(predictor.engine.details),
    )
    return Loaded(opened, stages, model.close, device_bytes_of(opened.device, before))


class _Replay:
    """A network that says at once what it said before, and when it had said it.

    Args:
        engine: The network.
        graph: How it is fed.
    """

    def __init__(self, engine: Engine, graph: YoloGraph) -> None:
        self.said: Mapping[str, Array] = {}
        self.at = (0.0, 0.0)
        self.predictor = YoloPredictor(fake_engine(engine.inputs, engine.outputs, self._answer), graph)

    def _answer(self, _: Mapping[str, Array]) -> Mapping[str, Array]:
        self.at = process_clocks()
        return self.said

    def begun(self) -> tuple[float, float]:
        """The clocks when the network had answered."""
        return self.at


def _stages(
    opening: Opening, model: YOLO, pictures: list[ImageArray], *, prompted: bool
) -> dict[str, Callable[[int], Ran]]:
    engine, graph = model.predictor.engine, model.predictor.graph
    replay = _Replay(engine, graph)
    outputs: dict[int, Mapping[str, Array]] = {}

    def feed_of(image: ImageArray) -> dict[str, Array]:
        (rows, columns), (height, width) = image.shape[:2], graph.image_size
        box = Letterbox.of(rows, columns, height, width, rect=not graph.fixed_size, stride=graph.stride)
        feed: Array = box.input(image)
        return {graph.input: feed.astype("float16") if graph.half else feed}

    def preprocess(picture: int) -> Ran:
        wall, cpu, _ = timed(lambda: feed_of(pictures[picture]))
        return Ran(wall, cpu)

    def encode(picture: int) -> Ran:
        feeds = feed_of(pictures[picture])
        wall, cpu, outputs[picture] = timed(lambda: engine.run(feeds))
        return Ran(wall, cpu)

    def prompt(picture: int, **prompts: Any) -> Ran:
        if picture not in outputs:
            outputs[picture] = engine.run(feed_of(pictures[picture]))
        replay.said = outputs[picture]

        def chosen() -> Results:
            return choose(snap_to_border(replay.predictor.predict(pictures[picture])), **prompts)

        wall, cpu, results = timed(chosen, begun=replay.begun)
        return Ran(wall, cpu, figures={"masks": len(results)})

    def everything(picture: int) -> Ran:
        wall, cpu, results = timed(lambda: model.predict(pictures[picture]))
        return Ran(wall, cpu, figures={"masks": len(results[0])})

    found: dict[str, Callable[[int], Ran]] = {"preprocess": preprocess, "encode": encode, "everything": everything}
    if prompted:
        found |= {
            "prompt": lambda picture: prompt(picture, points=[opening.points[picture]]),
            "boxes": lambda picture: prompt(picture, bboxes=opening.boxes[picture]),
        }
    return found
