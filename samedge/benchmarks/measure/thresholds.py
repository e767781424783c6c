"""Segment everything: thresholds for weights that Meta's do not suit, and figures of a run."""

from __future__ import annotations

from typing import Final

import numpy as np

from samedge.api.load import load
from samedge.runtime.everything.found import FoundMasks

DEMO_THRESHOLDS: Final = {"pred_iou_thresh": 0.55, "stability_score_thresh": 0.75}
"""sam_demo rarely reaches Meta's thresholds: at 0.88 and 0.95 hardly any mask would remain."""

_CONFIDENT: Final = 0.3
_STABLE: Final = 0.5
"""Fractions of random weights' masks that pass the predicted IoU and, of those, the stability threshold; fixed
thresholds would drop all masks or none."""


def seeded_thresholds(
    bundle: str, image: str, points_per_side: int, threads: int | None, backend: str = "onnxruntime"
) -> dict[str, float]:
    """Return thresholds that drop most masks of random weights but keep some, as with trained weights."""
    with load(bundle, backend, "cpu", threads=threads, force=True) as predictor:
        masks = predictor.everything(
            image, points_per_side=points_per_side, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0
        )
    if not len(masks):
        return {}
    predicted_iou = round(float(np.quantile(masks.predicted_iou, 1 - _CONFIDENT)), 4)
    stability = masks.stability_score[masks.predicted_iou > predicted_iou]
    return {
        "pred_iou_thresh": predicted_iou,
        "stability_score_thresh": round(float(np.quantile(stability, 1 - _STABLE)), 4) if len(stability) else 0.0,
    }


def everything_figures(found: FoundMasks) -> dict[str, float]:
    """Return how many points, prompts, decoder calls and masks a run took."""
    names = ("points", "decoder_prompts", "decoder_calls", "masks_drawn", "masks_upscaled")
    return {name: getattr(found.statistics, name) for name in names}
