"""Verification of a YOLO's engines and backends against the bundle's graph, without torch.

The bundle of a YOLO has no stored output of its checkpoint. The reference is its own graph, which the export compared
with the checkpoint, run by another backend on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from samedge.bundle.archive import Bundle
from samedge.bundle.engines import EngineSet
from samedge.bundle.manifest import GraphRole, ParityRecord
from samedge.bundle.yolo_record import YoloRecord
from samedge.engines.protocol import Engine
from samedge.engines.registry import availability, open_engine
from samedge.errors import BackendUnavailableError, BundleError
from samedge.parity.compare import no_progress
from samedge.parity.yolo_compare import FP32_YOLO, HALF_YOLO, INT8_YOLO, compare_yolo, probe_feeds
from samedge.runtime.yolo.graph import INPUT
from samedge.runtime.yolo.input_limits import InputLimits
from samedge.types import Precision, Progress

_REFERENCES: Final = ("onnxruntime", "openvino")
"""Backends that run a graph on the CPU in its own precision."""


def yolo_record(bundle: Bundle) -> YoloRecord:
    """Return the YOLO's part of the manifest.

    Raises:
        BundleError: The bundle is of another family.
    """
    record = bundle.manifest.yolo
    if record is None:
        raise BundleError("this is not the bundle of a YOLO", where=bundle.path, cure="Open it with samedge.SAM")
    return record


def why_not_comparable(bundle: Bundle, backend: str) -> str | None:
    """Return why a backend cannot be compared with a bundle's graph here; None if it can."""
    if yolo_record(bundle).nms is not None:
        return "its graph suppresses boxes (--nms), where rounding near a threshold makes a box disappear"
    if bundle.manifest.parity.verdict == "unchecked":
        return "its graph was not compared with its checkpoint (--no-check)"
    if _reference_backend(backend) is None:
        return "no other backend is installed to run its graph on the CPU: pip install onnxruntime or openvino"
    return None


def verify_yolo(
    bundle: Bundle,
    engine: Engine,
    precision: Precision,
    *,
    limits: InputLimits | None = None,
    progress: Progress = no_progress,
) -> ParityRecord:
    """Compare an opened engine or graph of a YOLO with the bundle's graph on the probe images.

    Args:
        bundle: The bundle.
        engine: The candidate. It stays open.
        precision: Its precision, which selects the thresholds.
        limits: Inputs that it accepts; None for all.
        progress: Called after each probe.

    Raises:
        BackendUnavailableError: There is nothing to compare with, see `why_not_comparable`.
        EngineError: An engine failed.
    """
    record = yolo_record(bundle)
    limits = limits or InputLimits()
    size = limits.usual(record.image_size)
    feeds = probe_feeds(size, limits.fewest_images, rect=record.dynamic, limits=limits, stride=max(record.strides))

    def probed(done: int) -> None:
        progress(f"Comparing with the bundle's graph: image {done} of {len(feeds)}", done / len(feeds))

    with _reference(bundle, engine.backend) as reference:
        return compare_yolo(
            lambda feed: list(reference.run({INPUT: feed}).values()),
            engine,
            len(record.names),
            feeds,
            {"fp32": FP32_YOLO, "fp16": HALF_YOLO}.get(precision, INT8_YOLO),
            backend=f"{engine.backend} {engine.device}, as {reference.backend} {reference.device}",
            progress=probed,
        )


class YoloParity:
    """The `samedge.parity.verify.FamilyParity` of YOLO and FastSAM."""

    def why_not(self, bundle: Bundle, backend: str, found: EngineSet | None = None) -> str | None:
        """Require a proved graph and another backend; any engine accepts probes that are drawn to fit."""
        return why_not_comparable(bundle, backend)

    def verify_graphs(
        self, bundle: Bundle, engines: Mapping[GraphRole, Engine], progress: Progress = no_progress
    ) -> ParityRecord:
        """Compare with another backend."""
        return verify_yolo(bundle, engines["yolo"], bundle.manifest.graph("yolo").precision, progress=progress)

    def verify_engines(
        self, bundle: Bundle, found: EngineSet, engines: Mapping[GraphRole, Engine], progress: Progress = no_progress
    ) -> ParityRecord:
        """Compare with the graph on the CPU."""
        limits = InputLimits.of(found.main.key.profiles)
        return verify_yolo(bundle, engines["yolo"], found.judged_as, limits=limits, progress=progress)


def _reference_backend(backend: str) -> str | None:
    return next((name for name in _REFERENCES if name != backend and availability(name).ok), None)


@contextmanager
def _reference(bundle: Bundle, backend: str) -> Iterator[Engine]:
    why = why_not_comparable(bundle, backend)
    name = _reference_backend(backend)
    if why is not None or name is None:
        raise BackendUnavailableError(
            f"this cannot be verified: {why}", where=bundle.path, cure="See the verdict of the export with samedge info"
        )
    with open_engine(bundle.graph_path("yolo"), backend=name, device="cpu") as engine:
        yield engine
