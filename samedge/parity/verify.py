"""Verification of a bundle against its checkpoint's masks, on any backend and without torch.

    record = verify_bundle("sam_b-samedge", backend="openvino")
    record.verdict, record.mask_iou_min

Compares with the answers that the export kept in the bundle. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack

from samedge.bundle.archive import Bundle, open_bundle
from samedge.bundle.engines import ENGINE_BACKENDS, EngineSet, require_engines
from samedge.bundle.manifest import GraphRole, ParityRecord
from samedge.engines.protocol import Engine
from samedge.engines.registry import AUTO, find_backend, open_engine
from samedge.parity.compare import FP32_THRESHOLDS, HALF_THRESHOLDS, INT8_THRESHOLDS, compare
from samedge.parity.graph_runner import GraphRunner, judged_roles
from samedge.parity.stored_reference import GridRunner, StoredReference, embedding_grid
from samedge.parity.yolo_verify import verify_yolo_bundle
from samedge.types import Precision, Progress


def thresholds_for(precision: Precision) -> tuple[Mapping[str, float], bool]:
    """Return the thresholds for graphs of a precision, and whether only the masks that a user is shown are judged."""
    if precision == "fp32":
        return FP32_THRESHOLDS, False
    return (INT8_THRESHOLDS if precision in ("int8", "fp8") else HALF_THRESHOLDS), True


def verify_bundle(
    bundle: str | os.PathLike[str] | Bundle,
    *,
    backend: str = AUTO,
    device: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ParityRecord:
    """Run the graphs of a bundle on the probe set and compares them with what its checkpoint said.

    The bundle of a YOLO keeps no answers: there a backend or an engine is compared with the bundle's own graph on
    another backend, on a processor.

    Args:
        bundle: Its folder or file, or one that is open. A verdict of "failed" in it is no obstacle here.
        backend: As for `samedge.load`, but "auto" takes the first that works. "tensorrt" and "tensorrt-rtx" verify the
            bundle's engines on this machine, and write the verdict into their sidecars.
        device: As for `samedge.load`.
        threads: CPU threads; None for all physical cores.
        progress: Called with a sentence and the share that is done.

    Returns:
        The verdict, by the thresholds of the encoder's precision.

    Raises:
        BundleError: It is not a bundle, or keeps no answers to compare with.
        BackendUnavailableError: There is no backend to compare a YOLO with.
        SamedgeError: As `samedge.load`.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, force=True)
    flavour = None if backend == AUTO else ENGINE_BACKENDS.get(find_backend(backend).name)
    if opened.manifest.yolo is not None:
        return verify_yolo_bundle(opened, flavour or backend, device, threads=threads, progress=progress)
    with ExitStack() as stack:
        if flavour is not None:
            pair = require_engines(opened, flavour, device, force=True)
            first, second = (
                stack.enter_context(open_engine(half.plan, backend=flavour, device=device))
                for half in (pair.encoder, pair.decoder)
            )
            return pair.judged(verify_pair(opened, pair, first, second, progress=progress)).parity
        engines: dict[GraphRole, Engine] = {}
        for graph in opened.manifest.graphs:
            path = opened.graph_path(graph.role)
            engines[graph.role] = stack.enter_context(
                open_engine(path, backend=backend, device=device, threads=threads)
            )
            backend, device = engines[graph.role].backend, engines[graph.role].device
        return verify_engines(opened, engines, opened.manifest.graph("encoder").precision, progress=progress)


def verify_engines(
    bundle: Bundle,
    engines: Mapping[GraphRole, Engine],
    precision: Precision,
    *,
    thresholds: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> ParityRecord:
    """Run open graphs or engines of a bundle on the probe set and compares them with what its checkpoint said.

    Args:
        bundle: Whose answers count.
        engines: By role: the encoder, and the decoders that are to be judged. They stay open.
        precision: Which thresholds are taken, see `thresholds_for`.
        thresholds: Others, of the masks that a user is shown.
        progress: Called with a sentence and the share that is done.

    Raises:
        BundleError: The bundle keeps no answers to compare with.
        EngineError: An engine failed.
    """
    limits, shown_only = thresholds_for(precision) if thresholds is None else (thresholds, True)
    reference = StoredReference(bundle, judged_roles(engines))
    total = len(reference.probes)

    def probed(done: int) -> None:
        if progress is not None:
            progress(f"Comparing with the checkpoint: image {done} of {total}", done / total)

    encoder = engines["encoder"]
    manifest = bundle.manifest
    return compare(
        reference,
        GridRunner(GraphRunner(engines, manifest.io, manifest.input, embedding_grid(bundle))),
        reference.probes,
        backend=f"{encoder.backend} {encoder.device}",
        thresholds=limits,
        shown_only=shown_only,
        progress=probed,
    )


def verify_pair(
    bundle: Bundle,
    pair: EngineSet,
    encoder: Engine,
    decoder: Engine,
    *,
    progress: Progress | None = None,
) -> ParityRecord:
    """Return the verdict of two opened engines of a GPU.

    Those of float32 are judged like those of float16: a GPU may round the factors of a float32 product.

    Args:
        bundle: Whose answers count.
        pair: What is known of the engines.
        encoder: The encoder's engine.
        decoder: The decoder's.
        progress: Called with a sentence and the share that is done.

    Raises:
        BundleError: The bundle keeps no answers.
        EngineError: An engine failed.
    """
    precision = pair.encoder.key.precision
    judged_as: Precision = "int8" if precision in ("int8", "fp8") else "fp16"
    return verify_engines(bundle, {"encoder": encoder, "decoder": decoder}, judged_as, progress=progress)
