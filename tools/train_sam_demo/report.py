"""Figures of the model card from the scores of single objects: means, sizes, calibration, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from rich.console import Console
from rich.table import Table

from tools.train_sam_demo.scoring import MEASURES, Target, mean_ious

Figures: TypeAlias = dict[str, float]
SIZES = ("small", "medium", "large")


def calibration(targets: Sequence[Target], measure: str) -> Figures:
    """Compare predicted IoUs with real ones: mean absolute error, bias and correlation."""
    real = np.array([t.iou[measure] for t in targets])
    said = np.array([t.predicted[measure] for t in targets])
    varied = real.std() > 0 and said.std() > 0
    return {
        "mean_absolute_error": float(np.abs(said - real).mean()),
        "bias": float((said - real).mean()),
        "correlation": float(np.corrcoef(said, real)[0, 1]) if varied else 0.0,
    }


def recall(targets: Sequence[Target], best: Sequence[float]) -> dict[str, Figures]:
    """Return the fraction of objects found by segment everything at IoU 0.5 and 0.75, by size."""
    ious = np.array(best)
    sizes = np.array([t.size for t in targets])
    groups = {"all": np.ones(len(ious), bool), **{size: sizes == size for size in SIZES}}
    return {
        name: {"recall_50": float((ious[rows] >= 0.5).mean()), "recall_75": float((ious[rows] >= 0.75).mean())}
        for name, rows in groups.items()
        if rows.any()
    }


def summary(targets: list[Target]) -> dict[str, object]:
    """Return all figures for some objects, for the JSON report."""
    groups: dict[str, list[Target]] = {"all": targets}
    for size in SIZES:
        groups[size] = [t for t in targets if t.size == size]
    groups["parts"] = [t for t in targets if t.part]
    for family in sorted({t.family for t in targets}):
        groups[f"family: {family}"] = [t for t in targets if t.family == family]
    return {
        "mean_iou": {name: {"objects": len(group), **mean_ious(group)} for name, group in groups.items() if group},
        "calibration": {name: calibration(targets, name) for name in ("box", "click_token0", "click_best_score")},
    }


def show(title: str, figures: dict[str, dict[str, float]], console: Console) -> None:
    """Print the mean IoUs of groups of objects as a table."""
    table = Table("objects", "n", *(name.replace("_", " ") for name in MEASURES), title=title)
    for name, row in figures.items():
        table.add_row(name, str(int(row["objects"])), *(f"{row[m]:.3f}" for m in MEASURES))
    console.print(table)
