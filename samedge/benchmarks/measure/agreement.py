"""Agreement of masks and embeddings from two implementations."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from samedge.bundle.archive import open_bundle
from samedge.engines.registry import open_engine
from samedge.types import Array, BoolArray, FloatArray


def mask_ious(ours: Sequence[BoolArray], theirs: Sequence[BoolArray]) -> FloatArray:
    """Return the IoUs of bool ``[H, W]`` masks, float32 ``[ours, theirs]``; 1 where both are empty."""
    if not ours or not theirs:
        return np.zeros((len(ours), len(theirs)), np.float32)
    a = np.stack(ours).reshape(len(ours), -1).astype(np.float32)
    b = np.stack(theirs).reshape(len(theirs), -1).astype(np.float32)
    shared = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1)[None] - shared
    return np.where(union == 0, np.float32(1), shared / np.maximum(union, 1)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Comparison of a set of masks with a reference set.

    Attributes:
        recalled: Number of reference masks that are matched.
        confirmed: Number of masks that match a reference mask.
        worst: The lowest of the reference masks' best IoUs; 1 if there are none.
        iou_sum: The sum of those IoUs.
    """

    wanted: int = 0
    found: int = 0
    recalled: int = 0
    confirmed: int = 0
    worst: float = 1.0
    iou_sum: float = 0.0

    def __add__(self, other: Agreement) -> Agreement:
        """Return the agreement over two images."""
        summed = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        return Agreement(**{**summed, "worst": min(self.worst, other.worst)})

    @property
    def mean_iou(self) -> float:
        """Mean of the reference masks' best IoUs; 1 if there are none."""
        return self.iou_sum / self.wanted if self.wanted else 1.0

    @property
    def recall(self) -> float:
        """Fraction of the reference masks that are matched; 1 if there are none."""
        return self.recalled / self.wanted if self.wanted else 1.0

    @property
    def precision(self) -> float:
        """Fraction of the masks that match a reference mask; 1 if there are none."""
        return self.confirmed / self.found if self.found else 1.0


def agreement(found: Sequence[BoolArray], wanted: Sequence[BoolArray], iou: float) -> Agreement:
    """Compare two sets of bool ``[H, W]`` masks of one image; two masks match from the given IoU."""
    ious = mask_ious(found, wanted)
    best_of_wanted, best_of_found = ious.max(axis=0, initial=0.0), ious.max(axis=1, initial=0.0)
    return Agreement(
        wanted=len(wanted),
        found=len(found),
        recalled=int((best_of_wanted >= iou).sum()),
        confirmed=int((best_of_found >= iou).sum()),
        worst=float(best_of_wanted.min(initial=1.0)),
        iou_sum=float(best_of_wanted.sum()),
    )


def largest_difference(ours: Array, theirs: Array) -> float:
    """Return the largest absolute difference of two arrays of the same shape."""
    return float(np.abs(ours.astype(np.float64) - theirs).max(initial=0.0))


def prompted_masks(
    source: str, artefact: str, backend: str, threads: int | None, device: str = "cpu"
) -> dict[str, Any]:
    """Compare the masks of a bundle with those of its checkpoint in torch, on the probe set of the export.

    Called in a child process, because it needs torch.
    """
    from samedge.export.torch_reference import TorchRunner
    from samedge.models.sam.load import load_model
    from samedge.parity.compare import INT8_THRESHOLDS, compare
    from samedge.parity.graph_runner import GraphRunner, judged_roles
    from samedge.parity.probes import probe_set

    sam = load_model(source).model
    opened = open_bundle(artefact, force=True)
    with ExitStack() as stack:
        engines = {
            graph.role: stack.enter_context(
                open_engine(opened.graph_path(graph.role), backend=backend, device=device, threads=threads)
            )
            for graph in opened.manifest.graphs
        }
        parity = compare(
            TorchRunner(sam, judged_roles(engines)),
            GraphRunner(engines, opened.manifest.io, opened.manifest.input, sam.embedding_size),
            probe_set(sam.image_size, sam.embedding_size),
            backend=backend,
            thresholds=INT8_THRESHOLDS,
            shown_only=True,
        )
    return {
        "mean": parity.mask_iou_mean, "decile": parity.mask_iou_decile, "worst": parity.mask_iou_min,
        "passed": parity.verdict == "passed",
    }  # fmt: skip
