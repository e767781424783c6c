"""Shape families of training scenes: each draws one object as an anti-aliased alpha mask.

A family is a function of a random generator, the side of the image, a centre and a radius; shapes extend about one
radius from their centre. The result depends on nothing else, so a scene is a function of its seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Alpha: TypeAlias = NDArray[np.uint8]
Points: TypeAlias = NDArray[np.float64]
Family: TypeAlias = Callable[[np.random.Generator, int, Points, float], Alpha]

_SUBPIXEL_BITS = 4
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
)
# Only connected characters: the dot of an "i" would look like a second object.
_CHARACTERS = "ABCDEFGHKLMNOPQRSTUVWXYZabcdefghkmnopqrstuvwxyz023456789&?"


def fixed_point(points: Points) -> NDArray[np.int32]:
    """Return points ``[K, 2]`` in px as the fixed-point integers of OpenCV's `shift`."""
    return np.round(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def fill(size: int, contours: Sequence[Points]) -> Alpha:
    """Return the even-odd fill of closed contours ``[K, 2]`` (x, y) in px as alpha uint8 ``[size, size]``."""
    alpha = np.zeros((size, size), np.uint8)
    cv2.fillPoly(alpha, [fixed_point(c) for c in contours], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return alpha


def stroke(size: int, line: Points, thickness: int, *, closed: bool = False) -> Alpha:
    """Return a line ``[K, 2]`` (x, y) of the given thickness in px as alpha uint8 ``[size, size]``."""
    alpha = np.zeros((size, size), np.uint8)
    cv2.polylines(alpha, [fixed_point(line)], closed, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    return alpha


def place(unit: Points, rng: np.random.Generator, centre: Points, radius: float, *, squeeze: float = 0.5) -> Points:
    """Stretch and rotate points of the unit disc ``[K, 2]``, scale them to the radius, and move them to the centre."""
    stretch = np.array([1.0, rng.uniform(squeeze, 1.0)])
    turn = rng.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return np.asarray(unit * stretch @ rotation.T * radius + centre)


def circle(points: int = 48) -> Points:
    """Return the unit circle as a contour ``[points, 2]``."""
    angle = np.linspace(0, 2 * math.pi, points, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def bezier(controls: Points, points: int = 40) -> Points:
    """Return a cubic Bézier curve of four control points ``[4, 2]`` as a line ``[points, 2]``."""
    t = np.linspace(0, 1, points)[:, None]
    weights = np.concatenate([(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3], axis=1)
    return np.asarray(weights @ controls)


def polygon(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a simple polygon of 3 to 9 corners, possibly concave."""
    corners = int(rng.integers(3, 10))
    angle = np.sort((np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) * 2 * math.pi / corners)
    reach = rng.uniform(rng.uniform(0.35, 0.9), 1.0, corners)[:, None]
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1) * reach
    return fill(size, [place(unit, rng, centre, radius)])


def ellipse(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw an ellipse."""
    return fill(size, [place(circle(), rng, centre, radius, squeeze=0.35)])


def blob_unit(rng: np.random.Generator) -> Points:
    """Return a smooth closed curve: a circle whose radius is a short random Fourier series."""
    angle = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    waves = np.arange(1, 6)
    amplitude = rng.normal(0, rng.uniform(0.1, 0.4), 5) / waves
    reach = 1 + (amplitude[:, None] * np.cos(waves[:, None] * angle + rng.uniform(0, 6.3, (5, 1)))).sum(0)
    reach = np.clip(reach, 0.2, None)
    return np.asarray(np.stack([np.cos(angle), np.sin(angle)], axis=1) * (reach / reach.max())[:, None])


def blob(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a smooth blob."""
    return fill(size, [place(blob_unit(rng), rng, centre, radius)])


def petal(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a closed shape of 2 to 4 Bézier curves that meet in corners."""
    knots = int(rng.integers(2, 5))
    angle = np.sort(rng.uniform(0, 0.5, knots) + np.arange(knots) * 2 * math.pi / knots)
    corner = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.6, 1.0, (knots, 1))
    parts = []
    for i in range(knots):
        a, b = corner[i], corner[(i + 1) % knots]
        out = np.array([a[1] - b[1], b[0] - a[0]]) * -rng.uniform(-0.1, 0.6)
        parts.append(bezier(np.stack([a, a + 0.3 * (b - a) + out, b + 0.3 * (a - b) + out, b]), 20)[:-1])
    return fill(size, [place(np.concatenate(parts), rng, centre, radius, squeeze=0.7)])


def box(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a rotated or upright rectangle with sharp or round corners."""
    half = np.array([1.0, rng.uniform(0.3, 1.0)]) * 0.8
    corner = half[1] * rng.uniform(0.1, 0.9) if rng.random() < 0.5 else 1e-3
    angle = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    unit = np.sign(direction) * (half - corner) + direction * corner
    if rng.random() < 0.4:
        return fill(size, [(unit if rng.random() < 0.5 else unit[:, ::-1]) * radius + centre])
    return fill(size, [place(unit, rng, centre, radius, squeeze=1.0)])


def capsule(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a straight bar with rounded ends."""
    ends = place(np.array([[-0.8, 0.0], [0.8, 0.0]]), rng, centre, radius)
    return stroke(size, ends, max(5, size // 51, round(radius * rng.uniform(0.25, 0.6))))


def wire(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a thin curve: two joined Béziers, or an open zigzag, as wide as a cable or a branch."""
    if rng.random() < 0.7:
        controls = rng.uniform(-1, 1, (7, 2))
        controls[4] = 2 * controls[3] - controls[2]  # no kink at the joint
        line = np.concatenate([bezier(controls[:4]), bezier(controls[3:])[1:]])
    else:
        line = np.stack([np.linspace(-1, 1, 5), rng.uniform(-0.7, 0.7, 5)], axis=1)
    thinnest = max(4, size // 64)
    thickness = int(rng.integers(thinnest, thinnest + max(2, size // 36)))
    return stroke(size, place(line, rng, centre, radius * 1.2, squeeze=0.6), thickness)


def ring(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw an elliptical or blobby ring with a see-through hole."""
    outer = place(circle() if rng.random() < 0.7 else blob_unit(rng), rng, centre, radius, squeeze=0.6)
    return fill(size, [outer, (outer - centre) * rng.uniform(0.4, 0.78) + centre])


def sieve(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a blob or box with 1 to 3 round holes."""
    outer = place(blob_unit(rng) if rng.random() < 0.5 else np.sign(circle(4) + 1e-9) * 0.75, rng, centre, radius)
    holes = []
    for k in range(int(rng.integers(1, 4))):
        angle = 2.1 * k + rng.uniform(0, 0.6)
        offset = np.array([math.cos(angle), math.sin(angle)]) * radius * rng.uniform(0.25, 0.35)
        holes.append(circle(24) * radius * rng.uniform(0.1, 0.2) + centre + offset)
    alpha = fill(size, [outer])
    return np.minimum(alpha, 255 - fill(size, holes)) if radius > size * 0.08 else alpha


def glyph(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw a rotated character in one of OpenCV's fonts, with strokes at least 4 px wide."""
    radius = max(radius, size * 0.07)
    side = 96
    sheet = np.zeros((side, side), np.uint8)
    text = _CHARACTERS[int(rng.integers(len(_CHARACTERS)))]
    font = _FONTS[int(rng.integers(len(_FONTS)))]
    thick = int(rng.integers(6, 13))
    (width, height), base = cv2.getTextSize(text, font, 2.4, thick)
    origin = ((side - width) // 2, (side + height) // 2 - base // 4)
    cv2.putText(sheet, text, origin, font, 2.4, 255, thick, cv2.LINE_AA)
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), float(rng.uniform(-45, 45)), 2.4 * radius / side)
    matrix[:, 2] = matrix[:, 2] + (centre - side / 2)
    return np.asarray(cv2.warpAffine(sheet, matrix, (size, size), flags=cv2.INTER_LINEAR), np.uint8)


def compound(rng: np.random.Generator, size: int, centre: Points, radius: float) -> Alpha:
    """Draw the union of two or three overlapping simple shapes."""
    simple = (polygon, ellipse, blob, box, capsule)
    alpha = simple[int(rng.integers(len(simple)))](rng, size, centre, radius * 0.7)
    for _ in range(int(rng.integers(1, 3))):
        beside = centre + rng.uniform(-0.45, 0.45, 2) * radius
        alpha = np.maximum(alpha, simple[int(rng.integers(len(simple)))](rng, size, beside, radius * 0.55))
    return alpha


TRAIN_FAMILIES: dict[str, Family] = {
    "polygon": polygon,
    "ellipse": ellipse,
    "blob": blob,
    "petal": petal,
    "box": box,
    "capsule": capsule,
    "wire": wire,
    "ring": ring,
    "sieve": sieve,
    "glyph": glyph,
    "compound": compound,
}
