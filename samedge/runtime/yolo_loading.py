"""The graph or the engine of a YOLO's bundle as a predictor: what `samedge.load` does when a bundle is one."""

from __future__ import annotations

from samedge.engines.protocol import Engine
from samedge.engines.registry import open_engine
from samedge.errors import SamedgeError
from samedge.runtime.bundle import Bundle
from samedge.runtime.bundle_engines import EngineSet, failed_pair
from samedge.runtime.input_limits import InputLimits
from samedge.runtime.parity.yolo_verify import verify_yolo_engine, why_not_comparable, yolo_record
from samedge.runtime.schemes import check_graph
from samedge.runtime.yolo_graph import describe_yolo, yolo_metadata
from samedge.runtime.yolo_predictor import YoloPredictor


def yolo_predictor(opened: Bundle, engine: Engine, limits: InputLimits | None = None) -> YoloPredictor:
    """Returns the predictor of an open graph or engine, which is closed if it is another than the manifest says.

    Args:
        opened: The bundle, whose manifest says what the model is.
        engine: Its graph, or an engine that was built from it.
        limits: Which inputs the engine takes; None for all that the graph does.

    Raises:
        BundleError: It is the bundle of another model.
        EngineError: It is no detector and no segmenter.
        IntegrityError: The manifest says something else of the graph.
    """
    try:
        record = yolo_record(opened)
        check_graph(opened.manifest.graph("yolo"), engine)
        told = yolo_metadata(
            dict(enumerate(record.names)),
            record.image_size,
            record.task,
            stride=str(max(record.strides)),
            args=repr({"nms": record.nms is not None}),
        )
        return YoloPredictor(engine, describe_yolo(engine, told), opened.manifest, limits)
    except SamedgeError:
        engine.close()
        raise


def load_yolo_engine(
    opened: Bundle, backend: str, found: EngineSet, device: str | None, *, force: bool
) -> YoloPredictor:
    """Opens an engine whose key fits, and has it judged if nobody did so yet and there is something to compare with.

    Args:
        opened: The bundle.
        backend: "tensorrt" or "tensorrt-rtx".
        found: The engine.
        device: The GPU; None for the first.
        force: Open it unjudged.

    Raises:
        ParityError: It does not give the checkpoint's boxes and masks.
        EngineError: It cannot be opened.
    """
    engine = open_engine(found.main.plan, backend=backend, device=device)
    predictor = yolo_predictor(opened, engine, InputLimits.of(found.main.key.profiles))
    try:
        if found.verdict == "unchecked" and not force and why_not_comparable(opened, backend) is None:
            judged = found.judged(verify_yolo_engine(opened, found, engine))  # once in the life of an engine
            if judged.verdict == "failed":
                raise failed_pair(opened, judged)
    except SamedgeError:
        predictor.close()
        raise
    return predictor
