"""Parity: comparison of two ways of running a model on the probe set.

The verdict depends on what users see: the intersection over union of binary masks at image size, then the predicted
IoUs, then the embeddings. The reference is the torch model or its stored output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import numpy as np

from samedge.bundle.manifest import GraphRole, ParityRecord, ParityRow
from samedge.parity.probes import Probe, ProbePrompt
from samedge.types import BoolArray, FloatArray, Precision, Progress

FP32_THRESHOLDS: Final[Mapping[str, float]] = {
    "mask_iou_mean": 0.999,
    "mask_iou_min": 0.99,
    "iou_error_max": 1e-3,
    "embedding_error_max": 1e-3,
}
"""Minimum mean and worst mask IoU, and maximum errors: only the order of float32 summation may differ."""

HALF_THRESHOLDS: Final[Mapping[str, float]] = {"mask_iou_mean": 0.995, "mask_iou_decile": 0.99, "iou_error_max": 0.02}
"""For float16, on the masks shown to users."""

INT8_THRESHOLDS: Final[Mapping[str, float]] = {"mask_iou_mean": 0.98, "mask_iou_decile": 0.95, "iou_error_max": 0.15}
"""For int8, on the masks shown to users. Rounding moves some borders by a pixel, which affects small masks most: the
mean and the worst tenth are judged, not the worst mask."""


def thresholds_for(precision: Precision) -> tuple[Mapping[str, float], bool]:
    """Return the thresholds of a precision, and whether only the masks shown to users are judged."""
    if precision == "fp32":
        return FP32_THRESHOLDS, False
    return (INT8_THRESHOLDS if precision in ("int8", "fp8") else HALF_THRESHOLDS), True


def no_progress(step: str, share: float) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoder's output for one prompt.

    Attributes:
        low_res_masks: float32 ``[M, 4g, 4g]`` logits.
        iou_predictions: float32 ``[M]``.
        masks: bool ``[M, H, W]`` at image size.
    """

    low_res_masks: FloatArray
    iou_predictions: FloatArray
    masks: BoolArray


class ProbeRunner(Protocol):
    """A way of running a model on a probe."""

    def embed(self, probe: Probe) -> FloatArray:
        """Encode the image, keep it for `decode`, and return the embedding float32 ``[1, C, g, g]``."""
        ...

    def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
        """Decode a prompt on the last embedded image, with each decoder graph."""
        ...


def mask_iou(a: BoolArray, b: BoolArray) -> float:
    """Return intersection over union of two binary masks of one shape; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else float(np.count_nonzero(a & b) / union)


def compare(
    reference: ProbeRunner,
    candidate: ProbeRunner,
    probes: Sequence[Probe],
    *,
    backend: str,
    thresholds: Mapping[str, float] = FP32_THRESHOLDS,
    shown_only: bool = False,
    against: str = "the checkpoint",
    progress: Progress = no_progress,
) -> ParityRecord:
    """Run both on every probe and return the verdict.

    Args:
        reference: The ground truth; its decoders must include the candidate's roles.
        candidate: The runner under test.
        probes: The probe set.
        backend: The candidate's backend and device, for the record.
        thresholds: As in `FP32_THRESHOLDS`; figures without a threshold are not judged.
        shown_only: Judge only the mask of each prompt that users see: for a click the reference's best of the three
            ambiguous ones, otherwise the first. The others are weak predictions.
        against: Name of the reference, for `progress`.
        progress: Called after each probe.
    """
    embedding_errors: list[float] = []
    low_res_errors: list[float] = []
    ious: list[float] = []
    rows: list[ParityRow] = []
    for done, probe in enumerate(probes, 1):
        embedding_errors.append(_max_difference(reference.embed(probe), candidate.embed(probe)))
        for prompt in probe.prompts:
            wanted, found = reference.decode(prompt), candidate.decode(prompt)
            pairs = [(wanted[role], decoded) for role, decoded in found.items()]
            if shown_only:
                pairs = [(part(want, at := _shown(prompt, want)), part(have, at)) for want, have in pairs]
            prompt_ious = [iou for want, have in pairs for iou in _mask_ious(want.masks, have.masks)]
            iou_error = max(_max_difference(want.iou_predictions, have.iou_predictions) for want, have in pairs)
            low_res_errors += [_max_difference(want.low_res_masks, have.low_res_masks) for want, have in pairs]
            ious += prompt_ious
            rows.append(ParityRow(image=probe.name, prompt=prompt.kind, mask_iou=min(prompt_ious), iou_error=iou_error))
        progress(f"Comparing with {against}: image {done} of {len(probes)}", done / len(probes))
    record = ParityRecord(
        verdict="failed",
        backend=backend,
        mask_iou_mean=float(np.mean(ious)),
        mask_iou_decile=float(np.quantile(ious, 0.1)),
        mask_iou_min=min(ious),
        iou_error_max=max(row.iou_error for row in rows),
        embedding_error_max=max(embedding_errors),
        low_res_error_max=max(low_res_errors),
        thresholds=dict(thresholds),
        rows=tuple(rows),
    )
    return judged(record)


def judged(record: ParityRecord) -> ParityRecord:
    """Return a record with the verdict of its figures by its thresholds: upper limits of "..._max", else lower ones."""
    passed = all(
        getattr(record, name) <= limit if name.endswith("_max") else getattr(record, name) >= limit
        for name, limit in record.thresholds.items()
    )
    return msgspec.structs.replace(record, verdict="passed" if passed else "failed")


def part(decoded: Decoded, index: int) -> Decoded:
    """Return one of the masks, without dropping its axis."""
    kept = slice(index, index + 1)
    return Decoded(decoded.low_res_masks[kept], decoded.iou_predictions[kept], decoded.masks[kept])


def _shown(prompt: ProbePrompt, reference: Decoded) -> int:
    """Return the index of the mask shown to users, by SAM's rule for ambiguous single points."""
    if len(reference.masks) == 1 or np.count_nonzero(prompt.labels >= 0) != 1:
        return 0
    return 1 + int(reference.iou_predictions[1:].argmax())


def _mask_ious(want: BoolArray, have: BoolArray) -> list[float]:
    return [mask_iou(a, b) for a, b in zip(want, have, strict=True)] if want.shape == have.shape else [0.0]


def _max_difference(want: FloatArray, have: FloatArray) -> float:
    """Return the largest absolute difference; the largest float32 for NaN or different shapes."""
    if want.shape != have.shape or not np.isfinite(have).all():
        return float(np.finfo(np.float32).max)  # not infinity, which JSON cannot carry
    return float(np.abs(want - have).max(initial=0.0))
