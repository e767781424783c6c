"""The fixed probe set: five images and five kinds of prompts, by which every export is judged.

The images are drawn from fixed seeds with numpy alone. Their aspect ratios range from 4:1 to 1:4, extremes at which
exported graphs have been wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from samedge.runtime.image.geometry import ImageGeometry
from samedge.types import FloatArray, ImageArray, IntArray

PROBE_SIZES: Final = ((250, 1000), (540, 960), (700, 700), (800, 600), (1000, 250))
"""(height, width) of the probe images in px: 4:1, 16:9, 1:1, 3:4, 1:4."""


@dataclass(frozen=True, slots=True)
class ProbePrompt:
    """A prompt as decoder inputs.

    Attributes:
        kind: Its name in the parity table.
        coords: float32 ``[P, 2]``, (x, y) in px of the resized image.
        labels: int32 ``[P]``: 1 foreground, 0 background, 2 and 3 box corners, -1 padding.
        mask: float32 ``[4g, 4g]`` logits, or None.
    """

    kind: str
    coords: FloatArray
    labels: IntArray
    mask: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """An image, uint8 ``[H, W, 3]`` BGR, and its prompts.

    Pillow 13 resizes tall images along the height first, earlier versions along the width, which changes some values by
    one. Outputs are compared across machines, so `pixels` fixes the order.
    """

    image: ImageArray
    prompts: tuple[ProbePrompt, ...]
    height_first: bool = False

    @property
    def name(self) -> str:
        """Width x height in px."""
        height, width = self.image.shape[:2]
        return f"{width}x{height}"

    def pixels(self, geometry: ImageGeometry) -> ImageArray:
        """Return the image resized along the first axis, so that only the other is left to resize."""
        if self.height_first:
            return replace(geometry, resized_width=geometry.width).resize(self.image)
        return replace(geometry, resized_height=geometry.height).resize(self.image)


def probe_set(image_size: int, grid: int, *, as_pillow_13: bool = False) -> tuple[Probe, ...]:
    """Return the probes for a model.

    Args:
        image_size: Side of the model's square input, px.
        grid: Side of its image embedding.
        as_pillow_13: Resize the tall image in the order of Pillow 13, as samedge 0.1.0 did with it.
    """
    probes = []
    for seed, (height, width) in enumerate(PROBE_SIZES):
        prompts = _prompts(height, width, image_size, grid)
        probes.append(Probe(_draw(height, width, seed), prompts, height_first=as_pillow_13 and height > 2 * width))
    return tuple(probes)


def _draw(height: int, width: int, seed: int) -> ImageArray:
    """Draw shaded discs and boxes on a gradient with grain: edges, flat areas and texture at every scale.

    In double precision, because sines differ between processors in the last digit, which must not change a pixel.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    image = np.stack([40 + 120 * x / width, 60 + 100 * y / height, 90 + 40 * np.sin((x + y) / 37)], axis=-1)
    for _ in range(12):
        cx, cy = random.uniform(0, width), random.uniform(0, height)
        radius = random.uniform(0.05, 0.25) * min(height, width) + 6
        distance = np.hypot(x - cx, (y - cy) * random.uniform(0.6, 1.6))
        if random.random() < 0.4:
            distance = np.maximum(np.abs(x - cx), np.abs(y - cy))
        colour = random.uniform(0, 255, 3)
        inside = distance < radius
        image[inside] = colour * (1 - 0.3 * (distance[inside] / radius)[:, None])
    image += random.normal(0, 6, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def _prompts(height: int, width: int, image_size: int, grid: int) -> tuple[ProbePrompt, ...]:
    scale = image_size / max(height, width)
    frame = np.array([width * scale, height * scale], dtype=np.float32)

    def place(*points: tuple[float, float]) -> FloatArray:
        return (np.array(points, dtype=np.float32) * frame).astype(np.float32)

    padding = np.zeros((1, 2), dtype=np.float32)
    corners = place((0.22, 0.28), (0.71, 0.83))
    side = 4 * grid
    y, x = (np.mgrid[:side, :side] + 0.5) * (image_size / side)
    centre, radius = frame * 0.45, 0.3 * frame
    inside = ((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2
    return (
        ProbePrompt("point", np.concatenate([place((0.5, 0.5)), padding]), _labels(1, -1)),
        ProbePrompt(
            "points", np.concatenate([place((0.4, 0.45), (0.55, 0.6), (0.9, 0.1)), padding]), _labels(1, 1, 0, -1)
        ),
        ProbePrompt("box", corners, _labels(2, 3)),
        ProbePrompt("box+point", np.concatenate([place((0.3, 0.7)), corners]), _labels(0, 2, 3)),
        ProbePrompt(
            "mask+point",
            np.concatenate([place((0.45, 0.45)), padding]),
            _labels(1, -1),
            np.clip(8 * (1 - inside), -12, 12).astype(np.float32),
        ),
    )


def _labels(*values: int) -> IntArray:
    return np.array(values, dtype=np.int32)
