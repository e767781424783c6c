"""Fills: functions that paint a rectangle, in two sets, one for training and one held out.

A texture is a function of a random generator and a size; it returns float32 ``[height, width, 3]`` in 0..255. Its
colours are similar, so that an object appears as one thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.train_sam_demo.photographs import HELD_OUT_PHOTOS, TRAIN_PHOTOS, crop

Paint: TypeAlias = NDArray[np.float32]
Texture: TypeAlias = Callable[[np.random.Generator, int, int], Paint]


def colour(rng: np.random.Generator) -> Paint:
    """Return a random colour ``[3]``; grey ones are as frequent as vivid ones."""
    value = rng.uniform(10, 245, 3)
    return np.asarray(value.mean() + (value - value.mean()) * rng.uniform(0, 1.2), np.float32).clip(0, 255)


def two_colours(rng: np.random.Generator) -> tuple[Paint, Paint]:
    """Return two sufficiently different colours."""
    first = colour(rng)
    step = rng.normal(0, 1, 3)
    step *= rng.uniform(20, 110) / np.linalg.norm(step)
    return first, np.asarray((first + step).clip(0, 255), np.float32)


def mix(weight: Paint, first: Paint, second: Paint) -> Paint:
    """Return ``first`` where the weight ``[H, W]`` is 0 and ``second`` where it is 1."""
    return first + weight[..., None] * (second - first)


def axes(rng: np.random.Generator, height: int, width: int) -> tuple[Paint, Paint]:
    """Return the coordinates, in px, of each pixel in a randomly rotated frame."""
    turn = rng.uniform(0, 2 * math.pi)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    c, s = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    return c * x + s * y, c * y - s * x


def value_noise(rng: np.random.Generator, height: int, width: int, *, cell: float = 0.0) -> Paint:
    """Return smooth noise ``[H, W]`` in 0..1: random grids of a few sizes, enlarged and added."""
    cell = cell or float(np.exp(rng.uniform(math.log(6), math.log(80))))
    total = np.zeros((height, width), np.float32)
    weight = 1.0
    for _ in range(3):
        grid = rng.random((max(2, int(height / cell) + 2), max(2, int(width / cell) + 2)), dtype=np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cell, weight = max(2.0, cell / 2.3), weight * 0.55
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def plain(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint a single colour."""
    return np.broadcast_to(colour(rng), (height, width, 3)).astype(np.float32)


def ramp(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint a linear gradient."""
    u, _ = axes(rng, height, width)
    return mix((u - u.min()) / max(float(np.ptp(u)), 1.0), *two_colours(rng))


def radial(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint a round gradient, as on a ball."""
    x = (np.arange(width, dtype=np.float32) / width - np.float32(rng.uniform(0.1, 0.9))) ** 2
    y = (np.arange(height, dtype=np.float32) / height - np.float32(rng.uniform(0.1, 0.9))) ** 2
    return mix(np.clip(np.sqrt(x + y[:, None]) * 1.2, 0, 1), *two_colours(rng))


def cloud(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint value noise between two colours."""
    return mix(value_noise(rng, height, width), *two_colours(rng))


def stripes(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint parallel stripes, hard or soft."""
    u, _ = axes(rng, height, width)
    wave = np.sin(u * np.float32(2 * math.pi / rng.uniform(5, 24)))
    return mix(np.clip(wave * np.float32(rng.choice([0.5, 4.0])) + 0.5, 0, 1), *two_colours(rng))


def checker(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint a chequerboard."""
    u, v = axes(rng, height, width)
    cell = np.float32(rng.uniform(5, 18))
    return mix(((np.floor(u / cell) + np.floor(v / cell)) % 2).astype(np.float32), *two_colours(rng))


def dots(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint a grid of dots."""
    u, v = axes(rng, height, width)
    cell = np.float32(rng.uniform(8, 22))
    far = np.hypot((u / cell) % 1 - 0.5, (v / cell) % 1 - 0.5)
    return mix(np.clip((np.float32(rng.uniform(0.2, 0.38)) - far) * cell + 0.5, 0, 1), *two_colours(rng))


def train_photo(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint a crop of a photograph of the training split."""
    return crop(TRAIN_PHOTOS, rng, height, width)


def voronoi(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint a Voronoi mosaic in shades between two colours."""
    seeds = int(np.clip(height * width / rng.uniform(120, 500), 4, 80))
    y = rng.uniform(0, height, seeds).astype(np.float32)
    x = rng.uniform(0, width, seeds).astype(np.float32)
    far = (np.arange(height, dtype=np.float32)[:, None, None] - y) ** 2 + (np.arange(width)[None, :, None] - x) ** 2
    shade = rng.random(seeds, dtype=np.float32)
    return mix(shade[far.argmin(2)], *two_colours(rng))


def zigzag(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint zigzag bands."""
    u, v = axes(rng, height, width)
    cell = np.float32(rng.uniform(8, 20))
    fold = np.abs((u / cell) % 2 - 1) * cell
    return mix((((v + fold) / (cell * 0.7)) % 2 < 1).astype(np.float32), *two_colours(rng))


def tiles(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint courses of bricks with joints."""
    u, v = axes(rng, height, width)
    tall = np.float32(rng.uniform(8, 18))
    course = np.floor(v / tall)
    joint = ((v / tall) % 1 < 0.15) | (((u + course * tall) / (2 * tall)) % 1 < 0.08)
    return mix(joint.astype(np.float32), *two_colours(rng))


def ripples(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint concentric waves."""
    x = np.arange(width, dtype=np.float32) - np.float32(rng.uniform(0, width))
    y = np.arange(height, dtype=np.float32) - np.float32(rng.uniform(0, height))
    wave = np.sin(np.hypot(x, y[:, None]) * np.float32(2 * math.pi / rng.uniform(8, 24)))
    return mix(0.5 + 0.5 * wave, *two_colours(rng))


def held_out_photo(rng: np.random.Generator, height: int, width: int) -> Paint:
    """Paint a crop of a photograph of the held-out split."""
    return crop(HELD_OUT_PHOTOS, rng, height, width)


TRAIN_TEXTURES: dict[str, tuple[Texture, float]] = {
    "plain": (plain, 0.2),
    "ramp": (ramp, 0.12),
    "radial": (radial, 0.13),
    "cloud": (cloud, 0.15),
    "stripes": (stripes, 0.09),
    "checker": (checker, 0.05),
    "dots": (dots, 0.06),
    "photo": (train_photo, 0.2),
}
"""Textures of training scenes, with their frequency."""

HELD_OUT_TEXTURES: dict[str, tuple[Texture, float]] = {
    "plain": (plain, 0.35),
    "voronoi": (voronoi, 0.13),
    "zigzag": (zigzag, 0.1),
    "tiles": (tiles, 0.1),
    "ripples": (ripples, 0.12),
    "held_out_photo": (held_out_photo, 0.2),
}
"""Textures of held-out scenes. `plain`, a single colour, is the only fill in both splits."""
