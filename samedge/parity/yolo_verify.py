"""Verification of engines and backends against the graph of a YOLO, on any machine and without torch.

The bundle of a YOLO keeps no answers of its checkpoint. What is right is what its own graph computes on a processor:
the export proved that graph against the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from samedge.bundle.archive import Bundle
from samedge.bundle.engines import EngineSet
from samedge.bundle.manifest import GraphRole, ParityRecord
from samedge.bundle.yolo_record import YoloRecord
from samedge.engines.protocol import Engine
from samedge.engines.registry import availability, open_engine
from samedge.errors import BackendUnavailableError, BundleError
from samedge.parity.yolo_compare import FP32_YOLO, HALF_YOLO, INT8_YOLO, compare_yolo, probe_feeds
from samedge.runtime.yolo.graph import INPUT
from samedge.runtime.yolo.input_limits import InputLimits
from samedge.types import FloatArray, Precision, Progress

_REFERENCES: Final = ("onnxruntime", "openvino")
"""Backends that run a graph on a processor in the precision that it is written in."""


def yolo_record(bundle: Bundle) -> YoloRecord:
    """Return what the manifest says of a YOLO.

    Raises:
        BundleError: It is the bundle of another model.
    """
    record = bundle.manifest.yolo
    if record is None:
        raise BundleError("this is not the bundle of a YOLO", where=bundle.path, cure="Open it with samedge.SAM")
    return record


def why_not_comparable(bundle: Bundle, backend: str) -> str | None:
    """Return why a backend cannot be compared with the bundle's graph here; None if it can.

    Args:
        bundle: The bundle of a YOLO.
        backend: Name of the backend that is to be judged: it is not compared with itself.
    """
    if yolo_record(bundle).nms is not None:
        return (
            "the graph suppresses boxes (--nms), so that a rounding near its thresholds is a missing box, which says "
            "nothing"
        )
    if bundle.manifest.parity.verdict == "unchecked":
        return "the bundle's own graph was not compared with its checkpoint (--no-check)"
    if _reference_backend(backend) is None:
        return (
            "there is no other backend here to run the bundle's graph on a processor, which is what a YOLO is compared "
            "with: pip install onnxruntime or openvino"
        )
    return None


def verify_yolo(
    bundle: Bundle,
    engine: Engine,
    precision: Precision,
    *,
    limits: InputLimits | None = None,
    progress: Progress | None = None,
) -> ParityRecord:
    """Run an open engine or graph of a YOLO on the probe images and compare it with the bundle's graph.

    Args:
        bundle: Whose graph is right.
        engine: Who is judged. It stays open.
        precision: What it computes in, which decides how far it may be off.
        limits: Which inputs it takes; None for all.
        progress: Called with a sentence and the share that is done.

    Raises:
        BackendUnavailableError: There is nothing to compare with, see `why_not_comparable`.
        EngineError: An engine failed.
    """
    record = yolo_record(bundle)
    limits = limits or InputLimits()
    size = limits.usual(record.image_size)
    feeds = probe_feeds(size, limits.fewest_images, rect=record.dynamic, limits=limits, stride=max(record.strides))

    def probed(done: int) -> None:
        if progress is not None:
            progress(f"Comparing with the bundle's graph: image {done} of {len(feeds)}", done / len(feeds))

    with _reference(bundle, engine.backend) as reference:

        def answer(feed: FloatArray) -> list[FloatArray]:
            return list(reference.run({INPUT: feed}).values())

        return compare_yolo(
            answer,
            engine,
            len(record.names),
            feeds,
            {"fp32": FP32_YOLO, "fp16": HALF_YOLO}.get(precision, INT8_YOLO),
            backend=f"{engine.backend} {engine.device}, as {reference.backend} {reference.device}",
            progress=probed,
        )


def verify_yolo_engine(
    bundle: Bundle, found: EngineSet, engine: Engine, *, progress: Progress | None = None
) -> ParityRecord:
    """Return the verdict of an opened engine of a GPU; see `samedge.parity.verify.FamilyParity.verify_engines`."""
    limits = InputLimits.of(found.main.key.profiles)
    return verify_yolo(bundle, engine, found.judged_as, limits=limits, progress=progress)


class YoloParity:
    """The `samedge.parity.verify.FamilyParity` of YOLOv8 and FastSAM."""

    def why_not(self, bundle: Bundle, backend: str, found: EngineSet | None = None) -> str | None:
        """See `why_not_comparable`; probes are drawn to fit an engine."""
        return why_not_comparable(bundle, backend)

    def verify_graphs(
        self, bundle: Bundle, engines: Mapping[GraphRole, Engine], progress: Callable[[str, float], None] | None = None
    ) -> ParityRecord:
        """See `FamilyParity`."""
        return verify_yolo(bundle, engines["yolo"], bundle.manifest.graph("yolo").precision, progress=progress)

    def verify_engines(
        self,
        bundle: Bundle,
        found: EngineSet,
        engines: Mapping[GraphRole, Engine],
        progress: Callable[[str, float], None] | None = None,
    ) -> ParityRecord:
        """See `FamilyParity`."""
        return verify_yolo_engine(bundle, found, engines["yolo"], progress=progress)


def _reference_backend(backend: str) -> str | None:
    return next((name for name in _REFERENCES if name != backend and availability(name).ok), None)


@contextmanager
def _reference(bundle: Bundle, backend: str) -> Iterator[Engine]:
    why = why_not_comparable(bundle, backend)
    name = _reference_backend(backend)
    if why is not None or name is None:
        raise BackendUnavailableError(
            f"this cannot be checked: {why}",
            where=bundle.path,
            cure="What the export proved is in the manifest: samedge info",
        )
    with open_engine(bundle.graph_path("yolo"), backend=name, device="cpu") as engine:
        yield engine
