"""Images for visual inspection: prompts and predicted masks, side by side."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.train_sam_demo.scenes import Scene

_COLOURS = np.random.default_rng(5).integers(40, 256, (64, 3)).astype(np.float32)


def overlay(image: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return an RGB image overlaid with masks ``[M, H, W]`` and their outlines, large ones first."""
    out = image.astype(np.float32)
    for rank, row in enumerate(np.argsort(-masks.sum((1, 2)))):
        tint = _COLOURS[rank % len(_COLOURS)]
        out[masks[row]] = 0.45 * out[masks[row]] + 0.55 * tint
        edge = cv2.morphologyEx(masks[row].astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        out[(edge > 0) & masks[row]] = tint
    return np.clip(out, 0, 255).astype(np.uint8)


def mark(image: NDArray[np.uint8], points: NDArray[np.float32], box: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """Return a copy with points ``[P, 2]`` and a box ``[2, 2]``, (x, y) in px, drawn on it."""
    out = image.copy()
    for x, y in points:
        cv2.circle(out, (round(float(x)), round(float(y))), 4, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(out, (round(float(x)), round(float(y))), 3, (230, 20, 60), -1, cv2.LINE_AA)
    if box is not None:
        (left, top), (right, bottom) = np.round(box).astype(int).tolist()
        cv2.rectangle(out, (left, top), (right, bottom), (60, 255, 60), 2)
    return out


def truth_beside(drawn: Scene, answers: list[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Return a row: the image, its true masks, and each set of predicted masks."""
    return np.hstack([drawn.image, overlay(drawn.image, drawn.masks), *(overlay(drawn.image, a) for a in answers)])


def write(path: Path, rows: list[NDArray[np.uint8]]) -> None:
    """Write rows of RGB images, one below the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width = max(row.shape[1] for row in rows)
    same = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(same), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
