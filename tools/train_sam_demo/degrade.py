"""Camera effects on a scene: uneven light, blur, noise and compression. Masks are unaffected."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.train_sam_demo.textures import axes, value_noise


def light(rng: np.random.Generator, canvas: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the canvas ``[S, S, 3]`` in light that falls off to one side, or is patchy."""
    size = canvas.shape[0]
    if rng.random() < 0.7:
        u, _ = axes(rng, size, size)
        field = (u - u.mean()) / np.float32(size) * np.float32(rng.uniform(0, 0.7))
    else:
        field = (value_noise(rng, size, size, cell=size * 0.4) - 0.5) * np.float32(rng.uniform(0, 0.6))
    tint = rng.uniform(0.93, 1.07, 3).astype(np.float32) * np.float32(rng.uniform(0.75, 1.15))
    return np.asarray(canvas * (1 + field[..., None]) * tint, np.float32)


def photograph(rng: np.random.Generator, canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the canvas as a camera's uint8 image: light, blur, noise and compression, each applied at random."""
    if rng.random() < 0.7:
        canvas = light(rng, canvas)
    if rng.random() < 0.5:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.3, 1.1))), np.float32)
    if rng.random() < 0.6:
        noise = rng.standard_normal(canvas.shape, dtype=np.float32)
        canvas = canvas + noise * np.float32(rng.uniform(1, 12))
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image
