"""Proof that graphs or engines of a SAM give its checkpoint's masks: by the answers that the bundle keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from samedge.bundle.archive import Bundle
from samedge.bundle.dialects import DIALECTS
from samedge.bundle.engines import EngineSet
from samedge.bundle.manifest import GraphRole, ParityRecord
from samedge.engines.protocol import Engine
from samedge.options import AxisRange
from samedge.parity.compare import FP32_THRESHOLDS, HALF_THRESHOLDS, INT8_THRESHOLDS, compare
from samedge.parity.graph_runner import GraphRunner, judged_roles
from samedge.parity.pair_verify import verify_pair
from samedge.parity.stored_reference import NO_ANSWERS, GridRunner, StoredReference, embedding_grid
from samedge.types import Precision


class SamParity:
    """The `samedge.parity.verify.FamilyParity` of SAM."""

    def why_not(self, bundle: Bundle, backend: str, found: EngineSet | None = None) -> str | None:
        """See `FamilyParity`: there must be answers, and engines must take the probes."""
        if bundle.manifest.probes is None:
            return NO_ANSWERS
        profiles = {} if found is None else found.decoder.key.profiles
        ranges = [AxisRange.parse(profiles[name], name) for name in ("prompts", "points") if name in profiles]
        return "they do not take the probes" if len(ranges) == 2 and not takes_probes(*ranges) else None

    def verify_graphs(
        self, bundle: Bundle, engines: Mapping[GraphRole, Engine], progress: Callable[[str, float], None] | None = None
    ) -> ParityRecord:
        """See `FamilyParity`: graphs of other tools, which keep no answers, are compared with another backend."""
        if bundle.manifest.probes is None and DIALECTS[bundle.manifest.io].foreign:
            return verify_pair(bundle, engines, progress)
        return verify_engines(bundle, engines, bundle.manifest.graph("encoder").precision, progress=progress)

    def verify_engines(
        self,
        bundle: Bundle,
        found: EngineSet,
        engines: Mapping[GraphRole, Engine],
        progress: Callable[[str, float], None] | None = None,
    ) -> ParityRecord:
        """See `FamilyParity`."""
        return verify_engines(bundle, engines, found.judged_as, progress=progress)


def takes_probes(prompts: AxisRange, points: AxisRange) -> bool:
    """Return whether a decoder for such ranges takes the probes: single prompts of two to four points."""
    return prompts.minimum == 1 and points.minimum <= 2 and points.maximum >= 4


def thresholds_for(precision: Precision) -> tuple[Mapping[str, float], bool]:
    """Return the thresholds for graphs of a precision, and whether only the masks that a user is shown are judged."""
    if precision == "fp32":
        return FP32_THRESHOLDS, False
    return (INT8_THRESHOLDS if precision in ("int8", "fp8") else HALF_THRESHOLDS), True


def verify_engines(
    bundle: Bundle,
    engines: Mapping[GraphRole, Engine],
    precision: Precision,
    *,
    thresholds: Mapping[str, float] | None = None,
    progress: Callable[[str, float], None] | None = None,
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

    encoder, manifest = engines["encoder"], bundle.manifest
    runner = GraphRunner(engines, manifest.io, manifest.input, embedding_grid(bundle))

    def judged(reference: StoredReference) -> ParityRecord:
        return compare(
            reference,
            GridRunner(runner),
            reference.probes,
            backend=f"{encoder.backend} {encoder.device}",
            thresholds=limits,
            shown_only=shown_only,
            progress=probed,
        )

    verdict = judged(reference)
    if verdict.verdict == "failed" and reference.may_be_of_pillow_13:
        other = judged(StoredReference(bundle, judged_roles(engines), as_pillow_13=True))
        return other if other.mask_iou_min > verdict.mask_iou_min else verdict
    return verdict
