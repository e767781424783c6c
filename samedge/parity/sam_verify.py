"""Parity of a SAM's graphs and engines with the stored output of its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from samedge.bundle.archive import Bundle
from samedge.bundle.dialects import DIALECTS
from samedge.bundle.engines import EngineSet
from samedge.bundle.manifest import GraphRole, ParityRecord
from samedge.engines.protocol import Engine
from samedge.options import AxisRange
from samedge.parity.compare import compare, no_progress, thresholds_for
from samedge.parity.graph_runner import GraphRunner, judged_roles
from samedge.parity.pair_verify import verify_pair
from samedge.parity.stored_reference import NO_ANSWERS, GridRunner, StoredReference, embedding_grid
from samedge.types import Precision, Progress


class SamParity:
    """The `samedge.parity.verify.FamilyParity` of SAM."""

    def why_not(self, bundle: Bundle, backend: str, found: EngineSet | None = None) -> str | None:
        """Require the stored output, and engines that accept the probes."""
        if bundle.manifest.probes is None:
            return NO_ANSWERS
        profiles = {} if found is None else found.decoder.key.profiles
        ranges = [AxisRange.parse(profiles[name], name) for name in ("prompts", "points") if name in profiles]
        return "they do not take the probes" if len(ranges) == 2 and not takes_probes(*ranges) else None

    def verify_graphs(
        self, bundle: Bundle, engines: Mapping[GraphRole, Engine], progress: Progress = no_progress
    ) -> ParityRecord:
        """Compare with the stored output; other tools' graphs, which have none, with another backend."""
        if bundle.manifest.probes is None and DIALECTS[bundle.manifest.io].foreign:
            return verify_pair(bundle, engines, progress)
        return verify_engines(bundle, engines, bundle.manifest.graph("encoder").precision, progress)

    def verify_engines(
        self, bundle: Bundle, found: EngineSet, engines: Mapping[GraphRole, Engine], progress: Progress = no_progress
    ) -> ParityRecord:
        """Compare with the thresholds of the engines' precision."""
        return verify_engines(bundle, engines, found.judged_as, progress)


def takes_probes(prompts: AxisRange, points: AxisRange) -> bool:
    """Return True if a decoder for these ranges accepts the probes: single prompts of two to four points."""
    return prompts.minimum == 1 and points.minimum <= 2 and points.maximum >= 4


def verify_engines(
    bundle: Bundle, engines: Mapping[GraphRole, Engine], precision: Precision, progress: Progress = no_progress
) -> ParityRecord:
    """Compare opened graphs or engines of a bundle with the stored output of its checkpoint.

    Args:
        bundle: The bundle.
        engines: The encoder, and the decoders to judge, by role. They stay open.
        precision: Selects the thresholds, see `thresholds_for`.
        progress: Called after each probe.

    Raises:
        BundleError: The bundle has no stored output.
        EngineError: An engine failed.
    """
    thresholds, shown_only = thresholds_for(precision)
    encoder, manifest = engines["encoder"], bundle.manifest
    runner = GraphRunner(engines, manifest.io, manifest.input, embedding_grid(bundle))

    def verdict_by(reference: StoredReference) -> ParityRecord:
        return compare(
            reference,
            GridRunner(runner),
            reference.probes,
            backend=f"{encoder.backend} {encoder.device}",
            thresholds=thresholds,
            shown_only=shown_only,
            progress=progress,
        )

    reference = StoredReference(bundle, judged_roles(engines))
    verdict = verdict_by(reference)
    if verdict.verdict == "failed" and reference.may_be_of_pillow_13:
        other = verdict_by(StoredReference(bundle, judged_roles(engines), as_pillow_13=True))
        return other if other.mask_iou_min > verdict.mask_iou_min else verdict
    return verdict
