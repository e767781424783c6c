"""Shape families of held-out scenes, which training never uses."""

from __future__ import annotations

import math

import numpy as np

from tools.train_sam_demo.families import Alpha, Family, Points, circle, fill, place, stroke


def star(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a star of 4 to 8 points."""
    points = int(rng.integers(4, 9))
    reach = np.tile([1.0, rng.uniform(0.35, 0.6)], points)[:, None]
    return fill(size, [place(circle(2 * points) * reach, rng, centre, radius, squeeze=0.8)])


def gear(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a gear wheel of 6 to 12 teeth, often with a hole at its hub."""
    teeth = int(rng.integers(6, 13))
    inner = rng.uniform(0.72, 0.85)
    reach = np.tile([inner, inner, 1.0, 1.0], teeth)[:, None]
    unit = circle(4 * teeth) * reach
    hub = circle(32) * rng.uniform(0.2, 0.4)
    outline = place(np.concatenate([unit, hub]), rng, centre, radius, squeeze=0.85)
    contours = [outline[: len(unit)], outline[len(unit) :]]
    return fill(size, contours if rng.random() < 0.6 else contours[:1])


def superellipse(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a superellipse, from a diamond with hollow sides to a squircle."""
    exponent = 2 / rng.choice([rng.uniform(0.6, 0.9), rng.uniform(2.8, 5.0)])
    unit = circle(64)
    return fill(size, [place(np.sign(unit) * np.abs(unit) ** exponent * 0.9, rng, centre, radius)])


def heart(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a heart."""
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return fill(size, [place(np.stack([x, -y], axis=1) / 17, rng, centre, radius, squeeze=0.75)])


def crescent(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a crescent moon."""
    half = np.linspace(0.5, 1.5, 32) * math.pi
    outer = np.stack([np.cos(half), np.sin(half)], axis=1)
    inner = outer[::-1] * np.array([rng.uniform(0.1, 0.55), 1.0])
    return fill(size, [place(np.concatenate([outer, inner]) + np.array([0.3, 0.0]), rng, centre, radius, squeeze=0.8)])


def cross(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a plus sign with arms of equal width."""
    w = rng.uniform(0.2, 0.4)
    arms = [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]
    return fill(size, [place(np.array(arms, np.float64), rng, centre, radius, squeeze=0.7)])


def arrow(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw an arrow."""
    w, neck = rng.uniform(0.12, 0.28), rng.uniform(-0.1, 0.4)
    outline = [(-1, -w), (neck, -w), (neck, -0.6), (1, 0), (neck, 0.6), (neck, w), (-1, w)]
    return fill(size, [place(np.array(outline), rng, centre, radius, squeeze=0.8)])


def spiral(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a thin spiral of one to two turns."""
    radius = max(radius, size * 0.12)
    angle = np.linspace(0, rng.uniform(1.0, 2.0) * 2 * math.pi, 90)
    reach = (0.15 + 0.85 * angle / angle[-1])[:, None]
    line = np.stack([np.cos(angle), np.sin(angle)], axis=1) * reach
    return stroke(size, place(line, rng, centre, radius, squeeze=0.75), int(rng.integers(4, 8) * max(1.0, size / 256)))


HELD_OUT_FAMILIES: dict[str, Family] = {
    "star": star,
    "gear": gear,
    "superellipse": superellipse,
    "heart": heart,
    "crescent": crescent,
    "cross": cross,
    "arrow": arrow,
    "spiral": spiral,
}
