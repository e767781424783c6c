"""Procedural scenes with exact instance masks: `scene(seed, split)` is the same on every machine with the same OpenCV.

Objects are painted over one another, large ones first. A mask is the visible part of an object. Some objects have a
part, which is a target of its own and also belongs to its whole: a click there is ambiguous, as in photographs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.train_sam_demo.degrade import photograph
from tools.train_sam_demo.families import TRAIN_FAMILIES, Alpha, Family
from tools.train_sam_demo.families_held_out import HELD_OUT_FAMILIES
from tools.train_sam_demo.textures import HELD_OUT_TEXTURES, TRAIN_TEXTURES, Paint, Texture

Split = Literal["train", "held_out"]

SMALLEST_SHARE = 0.0025
"""Objects whose visible part is a smaller fraction of the image are painted, but are not targets."""
_HALF_HIDDEN = 0.3
_WHOLE_ENOUGH = 0.85
_CONTRAST = 34.0


@dataclass(frozen=True, slots=True)
class Scene:
    """An image and its objects.

    Attributes:
        image: uint8 ``[S, S, 3]``, RGB.
        masks: bool ``[N, S, S]``, the visible part of each object; those of parts lie within those of their wholes.
        families: The shape family of each mask.
        parents: int64 ``[N]``: the row of a part's whole, otherwise -1.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    families: tuple[str, ...]
    parents: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int16]:
        """The finest partition, int16 ``[S, S]``: 0 outside all masks, otherwise 1 + the row of the smallest one."""
        out = np.zeros(self.image.shape[:2], np.int16)
        for row in [*np.flatnonzero(self.parents < 0), *np.flatnonzero(self.parents >= 0)]:
            out[self.masks[row]] = row + 1
        return out


def scene(seed: int, split: Split = "train", size: int = 256) -> Scene:
    """Return the scene of a seed, size x size px, with at least one mask."""
    families = TRAIN_FAMILIES if split == "train" else HELD_OUT_FAMILIES
    textures = TRAIN_TEXTURES if split == "train" else HELD_OUT_TEXTURES
    # The split is part of the seed, so not even layouts are shared.
    rng = np.random.default_rng([seed, 0 if split == "train" else 1])
    while True:
        drawn = _Painter(rng, size, families, textures).draw()
        if drawn is not None:
            return drawn


class _Painter:
    """The state of a scene while it is being painted."""

    def __init__(
        self,
        rng: np.random.Generator,
        size: int,
        families: dict[str, Family],
        textures: dict[str, tuple[Texture, float]],
    ) -> None:
        self.rng = rng
        self.size = size
        self.families = families
        self.fills = [texture for texture, _ in textures.values()]
        weights = np.array([weight for _, weight in textures.values()])
        self.weights = weights / weights.sum()
        self.owner = np.zeros((size, size), np.int16)
        self.names: list[str] = []
        self.parents: list[int] = []
        self.areas: list[int] = []
        # Photographs are one kind of fill, but half of the backgrounds.
        background = self.fills[-1] if rng.random() < 0.4 else self._texture()
        self.canvas: Paint = background(rng, size, size)

    def _texture(self) -> Texture:
        return self.fills[int(self.rng.choice(len(self.fills), p=self.weights))]

    def draw(self) -> Scene | None:
        rng, size = self.rng, self.size
        count = int(rng.integers(2, 13))
        radius = size * np.exp(rng.uniform(math.log(0.06), math.log(0.4), count))
        # Roughly, large ones first, so that they do not cover the small ones.
        order = np.argsort(-radius * np.exp(rng.normal(0, 0.25, count)))
        for r in radius[order]:
            centre = rng.uniform(0.05 * size, 0.95 * size, 2)
            name, alpha = self._shape(centre, float(r))
            whole = self._paint(name, alpha, parent=-1)
            if whole and r > 0.1 * size and rng.random() < 0.35:
                self._paint_part(whole, alpha, float(r))
        return self._finish()

    def _shape(self, centre: NDArray[np.float64], radius: float) -> tuple[str, Alpha]:
        names = list(self.families)
        name = names[int(self.rng.integers(len(names)))]
        return name, self.families[name](self.rng, self.size, centre, radius)

    def _paint_part(self, whole: int, alpha: Alpha, radius: float) -> None:
        """Paint a smaller shape within the object painted last."""
        inside = np.argwhere(cv2.erode((alpha > 127).astype(np.uint8), np.ones((7, 7), np.uint8)))
        if not len(inside):
            return
        y, x = inside[int(self.rng.integers(len(inside)))]
        name, part = self._shape(np.array([x, y], np.float64), radius * float(self.rng.uniform(0.3, 0.6)))
        self._paint(name, np.minimum(part, alpha), parent=whole)

    def _paint(self, name: str, alpha: Alpha, parent: int) -> int:
        """Paint an object over the canvas; return its number in the owner map, or 0 if it would cover nothing."""
        x, y, w, h = cv2.boundingRect(alpha)
        solid = alpha > 127
        area = int(solid.sum())
        if area < SMALLEST_SHARE * self.size**2:
            return 0
        rng, view = self.rng, (slice(y, y + h), slice(x, x + w))
        if parent < 0 and rng.random() < 0.4:
            self._shadow(alpha)
        under = cv2.mean(self.canvas[view], mask=alpha[view])[:3]
        for _ in range(4):
            paint = self._texture()(rng, h, w)
            if np.abs(np.subtract(cv2.mean(paint)[:3], under)).max() > _CONTRAST:
                break
        else:
            paint = (paint + (np.float32(70) if np.mean(under) < 128 else np.float32(-70))).clip(0, 255)
        if rng.random() < 0.25:  # shading, as of a round body
            light = np.linspace(rng.uniform(0.6, 1), rng.uniform(0.9, 1.2), w, dtype=np.float32)
            paint = paint * light[None, :, None]
        weight = (alpha[view].astype(np.float32) / 255)[..., None]
        if rng.random() < 0.12:  # an outline that belongs to the object
            paint = np.where((cv2.erode(alpha, np.ones((5, 5), np.uint8))[view] < 128)[..., None], paint * 0.35, paint)
        self.canvas[view] += weight * (paint - self.canvas[view])
        self.names.append(name)
        self.parents.append(parent)
        self.areas.append(area)
        self.owner[solid] = len(self.names)
        return len(self.names)

    def _shadow(self, alpha: Alpha) -> None:
        dx, dy = self.rng.uniform(-0.03, 0.03, 2) * self.size
        moved = cv2.warpAffine(alpha, np.array([[1, 0, dx], [0, 1, dy]]), (self.size, self.size))
        soft = cv2.GaussianBlur(moved, (0, 0), float(self.rng.uniform(1.0, 4.0))).astype(np.float32)
        self.canvas *= 1 - soft[..., None] * np.float32(self.rng.uniform(0.2, 0.6) / 255)

    def _finish(self) -> Scene | None:
        """Return the scene with the masks that are fair targets, or None if there are none."""
        count = len(self.names)
        kept: dict[int, NDArray[np.bool_]] = {}
        for number in range(1, count + 1):
            members = [number, *(i + 1 for i, p in enumerate(self.parents) if p == number)]
            mask = np.isin(self.owner, members) if len(members) > 1 else self.owner == number
            if self._is_fair(mask, number, kept):
                kept[number] = mask
        if not kept:
            return None
        rows = {number: row for row, number in enumerate(kept)}
        parents = [rows.get(self.parents[n - 1], -1) for n in kept]
        return Scene(
            image=photograph(self.rng, self.canvas),
            masks=np.stack(list(kept.values())),
            families=tuple(self.names[n - 1] for n in kept),
            parents=np.array(parents, np.int64),
        )

    def _is_fair(self, mask: NDArray[np.bool_], number: int, kept: dict[int, NDArray[np.bool_]]) -> bool:
        visible = int(mask.sum())
        if visible < max(SMALLEST_SHARE * self.size**2, _HALF_HIDDEN * self.areas[number - 1]):
            return False
        whole = kept.get(self.parents[number - 1])
        if whole is not None and visible > 0.8 * whole.sum():
            return False  # the part covers everything visible of its whole
        solid = mask.astype(np.uint8)
        x, y, w, h = cv2.boundingRect(solid)
        _, _, stats, _ = cv2.connectedComponentsWithStats(solid[y : y + h, x : x + w], connectivity=8)
        return int(stats[1:, cv2.CC_STAT_AREA].max()) >= _WHOLE_ENOUGH * visible
