"""Opening of YOLOv8 and FastSAM bundles."""

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
        """See `FamilyOpener`; an engine accepts a range of sizes."""
        return yolo_predictor(opened, engines["yolo"], InputLimits.of(found.main.key.profiles))


def yolo_predictor(opened: Bundle, engine: Engine, limits: InputLimits | None = None) -> YoloPredictor:
    """Return a predictor for an opened graph, or an engine with limited input sizes.

    Raises:
        BundleError: The bundle is of another model.
        EngineError: It is neither a detector nor a segmenter.
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
