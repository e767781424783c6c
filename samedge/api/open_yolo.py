"""From the bundle of a YOLOv8 or FastSAM to its predictor."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor

from samedge.api.load import Place, decide_place, open_main
from samedge.bundle.archive import Bundle
from samedge.bundle.engines import EngineSet
from samedge.bundle.manifest import GraphRole
from samedge.engines.protocol import Engine
from samedge.errors import SamedgeError
from samedge.parity.yolo_verify import yolo_record
from samedge.runtime.yolo.graph import ONE_TO_ONE, describe_yolo, yolo_metadata
from samedge.runtime.yolo.input_limits import InputLimits
from samedge.runtime.yolo.predictor import YoloPredictor


class YoloOpener:
    """The `samedge.api.load.FamilyOpener` of YOLOv8 and FastSAM."""

    def open_graphs(self, opened: Bundle, place: Place, aside: Executor) -> YoloPredictor:
        """See `FamilyOpener`."""
        decision = decide_place(opened, place, yolo_record(opened).image_size)
        engine = open_main(opened, place, decision)
        try:
            return yolo_predictor(opened, engine)
        except SamedgeError:
            engine.close()
            raise

    def from_engines(self, opened: Bundle, found: EngineSet, engines: Mapping[GraphRole, Engine]) -> YoloPredictor:
        """See `FamilyOpener`: an engine takes a range of sizes."""
        return yolo_predictor(opened, engines["yolo"], InputLimits.of(found.main.key.profiles))


def yolo_predictor(opened: Bundle, engine: Engine, limits: InputLimits | None = None) -> YoloPredictor:
    """Return the predictor of an open graph or engine.

    Args:
        opened: The bundle, whose manifest says what the model is.
        engine: Its graph, or an engine that was built from it.
        limits: Which inputs the engine takes; None for all that the graph does.

    Raises:
        BundleError: It is the bundle of another model.
        EngineError: It is no detector and no segmenter.
        IntegrityError: The manifest says something else of the graph.
    """
    record = yolo_record(opened)
    told = yolo_metadata(
        dict(enumerate(record.names)),
        record.image_size,
        record.task,
        stride=str(max(record.strides)),
        args=repr({"nms": record.nms is not None}),
        **{ONE_TO_ONE: str(record.one_to_one is True)},
    )
    return YoloPredictor(engine, describe_yolo(engine, told), opened.manifest, limits)
