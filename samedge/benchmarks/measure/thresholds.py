"""At which predicted IoU and stability a mask stays in segment everything, where Meta's thresholds do not fit."""

from __future__ import annotations

from typing import Final

import numpy as np

from samedge.api.load import load

DEMO_THRESHOLDS: Final = {"pred_iou_thresh": 0.55, "stability_score_thresh": 0.75}
"""sam_demo is rarely as sure as Meta's thresholds want: with those of 0.88 and 0.95 hardly a mask would stay."""

_SURE: Final = 0.3
_STABLE: Final = 0.5
"""Of random weights' masks: thresholds are chosen so that such a share is sure enough, and of those such a share
stable. Fixed ones would drop all of them, or none."""


def seeded_thresholds(
    bundle: str, image: str, points_per_side: int, threads: int | None, backend: str = "onnxruntime"
) -> dict[str, float]:
    """Return thresholds at which some masks of random weights stay and most do not, as of trained ones.

    Args:
        bundle: Path of the bundle.
        image: Path of a picture.
        points_per_side: Of the grid that is asked.
        threads: CPU threads; None for all physical cores.
        backend: Which runs the bundle, on the CPU.
    """
    with load(bundle, backend, "cpu", threads=threads, force=True) as predictor:
        found = predictor.everything(
            image,
            points_per_side=points_per_side,
            pred_iou_thresh=0.0,
            stability_score_thresh=0.0,
            box_nms_thresh=1.0,
        )
    if not len(found):
        return {}
    sure = round(float(np.quantile(found.predicted_iou, 1 - _SURE)), 4)
    stable = found.stability_score[found.predicted_iou > sure]
    return {
        "pred_iou_thresh": sure,
        "stability_score_thresh": round(float(np.quantile(stable, 1 - _STABLE)), 4) if len(stable) else 0.0,
    }
