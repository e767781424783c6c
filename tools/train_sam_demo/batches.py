"""Batches of scenes with their first prompts, made in worker processes: batch `i` depends only on the seed and `i`."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tools.train_sam_demo.letterbox import cut, enlarged, padding
from tools.train_sam_demo.scenes import Scene, scene

_BACKGROUND_TARGETS = 0.05
_CUT = 0.3
_ENLARGED = 0.25
_SMALL_PICTURE = 256
_LARGEST_JITTER = 6 / 256


@dataclass(slots=True)
class Batch:
    """N scenes of size S with K targets each, flattened: target `i` is in scene `i // K`. With g4 = S / 4:

    Attributes:
        images: uint8 ``[N, S, S, 3]``, RGB.
        soft: float32 ``[N * K, g4, g4]``, the covered fraction of each cell of a low-resolution mask.
        hard: bool ``[N * K, S / 2, S / 2]``.
        points: float32 ``[N * K, 2]``, (x, y) of a pixel within the target.
        boxes: float32 ``[N * K, 2, 2]``, its jittered box: two corners, (x, y) in px.
        boxed: bool ``[N * K]``, True if the first prompt is the box, otherwise the point.
        labels: int64 ``[N, g4, g4]``, the object in each cell of the low-resolution grid.
        edges: float32 ``[N, g4, g4]``, 1 where two objects meet.
    """

    images: Tensor
    soft: Tensor
    hard: Tensor
    points: Tensor
    boxes: Tensor
    boxed: Tensor
    labels: Tensor
    edges: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))


class SceneBatches(Dataset[Batch]):
    """Training batches by number.

    Args:
        seed: Seed of the run.
        scenes: Scenes per batch.
        targets: Targets per scene.
        size: Side of a scene, px.
        repeat: Number of batches after which the scenes repeat, to overfit on purpose; 0 for never.
    """

    def __init__(self, seed: int, scenes: int, targets: int, size: int, repeat: int = 0) -> None:
        self.seed, self.scenes, self.targets, self.size, self.repeat = seed, scenes, targets, size, repeat

    def __getitem__(self, index: int) -> Batch:
        """Return batch `index`."""
        cv2.setNumThreads(1)
        number = index % self.repeat if self.repeat else index
        rng = np.random.default_rng([self.seed, 7, index])
        # Each scene is drawn once in a run; runs of different seeds draw different scenes.
        first = self.seed * 1_000_000_000 + number * self.scenes
        drawn = [self._scene(first + i, rng) for i in range(self.scenes)]
        drawn = [cut(s, rng) if rng.random() < _CUT else s for s in drawn]
        return collate([_targets(rng, s, self.targets) for s in drawn])

    def _scene(self, seed: int, rng: np.random.Generator) -> Scene:
        """Draw a scene; one in four is drawn small and enlarged, with softer edges and larger patterns."""
        if self.size > _SMALL_PICTURE and rng.random() < _ENLARGED:
            return enlarged(scene(seed, "train", _SMALL_PICTURE), self.size)
        return scene(seed, "train", self.size)


def collate(parts: list[dict[str, NDArray[np.generic]]]) -> Batch:
    """Stack the arrays of several scenes into a batch."""
    stacked = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    flat = {"soft", "hard", "points", "boxes", "boxed"}
    return Batch(**{k: torch.from_numpy(v.reshape(-1, *v.shape[2:]) if k in flat else v) for k, v in stacked.items()})


def _targets(rng: np.random.Generator, drawn: Scene, count: int) -> dict[str, NDArray[np.generic]]:
    size, quarter = drawn.image.shape[0], drawn.image.shape[0] // 4
    labels = drawn.labels
    behind = (labels == 0) & ~padding(drawn.image)
    rows = rng.permutation(np.arange(max(count, len(drawn.masks))) % len(drawn.masks))[:count]
    chosen = [
        behind if behind.mean() > 0.15 and rng.random() < _BACKGROUND_TARGETS else drawn.masks[row] for row in rows
    ]
    cells = cv2.resize(labels, (quarter, quarter), interpolation=cv2.INTER_NEAREST).astype(np.int64)
    edge = np.zeros((size, size), np.uint8)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    return {
        "images": drawn.image,
        "soft": np.stack([_shrunk(mask, quarter) for mask in chosen]),
        "hard": np.stack([_shrunk(mask, size // 2) >= 0.5 for mask in chosen]),
        "points": np.stack([inner_point(rng, mask) for mask in chosen]),
        "boxes": np.stack([jittered_box(rng, mask) for mask in chosen]),
        "boxed": rng.random(count) < 0.42,
        "labels": cells,
        "edges": edge.reshape(quarter, 4, quarter, 4).max((1, 3)).astype(np.float32),
    }


def _shrunk(mask: NDArray[np.bool_], side: int) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA), np.float32)


def inner_point(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return (x, y) of a random pixel of a mask; half of the time, one well inside."""
    if rng.random() < 0.5:
        depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        mask = depth >= depth.max() * rng.uniform(0.4, 0.9)
    found = np.flatnonzero(mask)
    y, x = divmod(int(found[int(rng.integers(found.size))]), mask.shape[1])
    return np.array([x, y], np.float32)


def tight_box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the corners of a mask's box, float32 ``[2, 2]``: (x, y) of its first and last pixels."""
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return np.array([[x, y], [x + w - 1, y + h - 1]], np.float32)


def jittered_box(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a mask's box with noise of a tenth of its sides, at most 6 px in 256; one in four boxes is exact."""
    box = tight_box(mask)
    if rng.random() < 0.25:
        return box
    most = _LARGEST_JITTER * max(mask.shape)
    scale = np.minimum((box[1] - box[0]) * 0.1, most)
    noise = np.clip(rng.normal(0, 1, (2, 2)) * scale * 0.7, -most, most)
    return np.asarray(np.clip(box + noise, 0, mask.shape[0] - 1), np.float32)
