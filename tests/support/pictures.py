"""Pictures for tests, written to disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_image(path: Path, seed: int = 0, height: int = 64, width: int = 64) -> Path:
    """Writes noise, with the seed in the first pixel, so that a detector can tell pictures apart; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[0, 0] = seed % 256
    assert cv2.imwrite(str(path), image)
    return path
