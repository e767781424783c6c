"""Parity: comparison of two ways of running a model on the probe set.

Judged on what the user sees: intersection over union of the binary masks at image size, then the predicted IoUs, then
the embeddings. The reference may be the torch model or stored results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from samedge.bundle.manifest import GraphRole, ParityRecord, ParityRow
from samedge.parity.probes import Probe, ProbePrompt
from samedge.types import BoolArray, FloatArray

FP32_THRESHOLDS: Final[Mapping[str, float]] = {
    "mask_iou_mean": 0.999,
    "mask_iou_min": 0.99,
    "iou_error_max": 1e-3,
    "embedding_error_max": 1e-3,
}
"""Minimum mean and worst mask IoU, and maximum errors. Only the order of float32 summation may differ."""

HALF_THRESHOLDS: Final[Mapping[str, float]] = {"mask_iou_mean": 0.995, "mask_iou_decile": 0.99, "iou_error_max": 0.02}
"""For float16, on the masks shown to a user."""

INT8_THRESHOLDS: Final[Mapping[str, float]] = {"mask_iou_mean": 0.98, "mask_iou_decile": 0.95, "iou_error_max": 0.15}
"""For int8, on the masks shown to a user. Rounding of weights and activations moves borders by a pixel here and there,
which affects small masks most: the mean and the worst tenth are judged, not the worst."""


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
        """Decode a prompt on the last embedded image; return one entry for each decoder graph, by role."""
        ...


@dataclass(slots=True)
class _Worst:
    iou_error: float = 0.0
    embedding_error: float = 0.0
    low_res_error: float = 0.0
    ious: list[float] = field(default_factory=list)


def mask_iou(a: BoolArray, b: BoolArray) -> float:
    """Return intersection over union of two binary masks of one shape; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else float(np.count_nonzero(a & b) / union)


def compare(
    reference: ProbeRunner,
    candidate: ProbeRunner,
    probes: Iterable[Probe],
    *,
    backend: str,
    thresholds: Mapping[str, float] = FP32_THRESHOLDS,
    shown_only: bool = False,
    progress: Callable[[int], None] | None = None,
) -> ParityRecord:
    """Run both on every probe and return the verdict.

    Args:
        reference: The ground truth; its decoders must include the candidate's roles.
        candidate: The runner under test.
        probes: The probe set.
        backend: Name of the candidate's backend and device, for the record.
        thresholds: As in `FP32_THRESHOLDS`; figures without a threshold are not judged.
        shown_only: Judge only the mask of each prompt that is shown to a user: for a click the reference's best of the
            three ambiguous ones, otherwise the first. The others are weak predictions that no one sees.
        progress: Called with the number of finished probes.
    """
    worst = _Worst()
    rows: list[ParityRow] = []
    for done, probe in enumerate(probes, 1):
        error = _max_difference(reference.embed(probe), candidate.embed(probe))
        worst.embedding_error = max(worst.embedding_error, error)
        for prompt in probe.prompts:
            rows.append(_row(probe, prompt, reference, candidate, worst, shown_only=shown_only))
        if progress is not None:
            progress(done)
    figures = {
        "mask_iou_mean": float(np.mean(worst.ious)),
        "mask_iou_decile": float(np.quantile(worst.ious, 0.1)),
        "mask_iou_min": min(worst.ious),
        "iou_error_max": worst.iou_error,
        "embedding_error_max": worst.embedding_error,
    }
    passed = all(
        figures[name] <= limit if name.endswith("_max") else figures[name] >= limit
        for name, limit in thresholds.items()
    )
    return ParityRecord(
        verdict="passed" if passed else "failed",
        backend=backend,
        mask_iou_mean=figures["mask_iou_mean"],
        mask_iou_decile=figures["mask_iou_decile"],
        mask_iou_min=figures["mask_iou_min"],
        iou_error_max=figures["iou_error_max"],
        embedding_error_max=figures["embedding_error_max"],
        low_res_error_max=worst.low_res_error,
        thresholds=dict(thresholds),
        rows=tuple(rows),
    )


def _row(
    probe: Probe,
    prompt: ProbePrompt,
    reference: ProbeRunner,
    candidate: ProbeRunner,
    worst: _Worst,
    *,
    shown_only: bool,
) -> ParityRow:
    want, have = reference.decode(prompt), candidate.decode(prompt)
    ious: list[float] = []
    errors: list[float] = []
    for role, decoded in have.items():
        expected = want[role]
        if shown_only:
            shown = _shown(prompt, expected)
            expected, decoded = _only(expected, shown), _only(decoded, shown)  # noqa: PLW2901
        ious.extend(_mask_ious(expected.masks, decoded.masks))
        errors.append(_max_difference(expected.iou_predictions, decoded.iou_predictions))
        error = _max_difference(expected.low_res_masks, decoded.low_res_masks)
        worst.low_res_error = max(worst.low_res_error, error)
    worst.ious.extend(ious)
    worst.iou_error = max(worst.iou_error, *errors)
    return ParityRow(image=probe.name, prompt=prompt.kind, mask_iou=min(ious), iou_error=max(errors))


def _shown(prompt: ProbePrompt, reference: Decoded) -> int:
    """Return the index of the mask shown to a user, by SAM's rule for ambiguous single points."""
    if len(reference.masks) == 1 or np.count_nonzero(prompt.labels >= 0) != 1:
        return 0
    return 1 + int(reference.iou_predictions[1:].argmax())


def _only(decoded: Decoded, index: int) -> Decoded:
    part = slice(index, index + 1)
    return Decoded(decoded.low_res_masks[part], decoded.iou_predictions[part], decoded.masks[part])


def _mask_ious(want: BoolArray, have: BoolArray) -> Iterator[float]:
    if want.shape != have.shape:
        yield 0.0
        return
    yield from (mask_iou(a, b) for a, b in zip(want, have, strict=True))


def _max_difference(want: FloatArray, have: FloatArray) -> float:
    """Return the largest absolute difference, or the largest float32 for NaN or differing shapes."""
    if want.shape != have.shape or not np.isfinite(have).all():
        return float(np.finfo(np.float32).max)  # not infinity, which JSON cannot carry
    return float(np.abs(want - have).max(initial=0.0))
