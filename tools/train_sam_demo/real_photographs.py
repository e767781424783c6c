"""Real photographs: hand-picked prompts for visual inspection, and one image with true masks.

The masks of the coins are ellipses fitted to their outlines and checked by eye. That photograph is held out: training
never used it. Astronaut, coffee and rocket were backgrounds and fills in training, without masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from samedge.models.sam.sam import Sam
from tools.train_sam_demo.everything import everything
from tools.train_sam_demo.letterbox import fitted, padded
from tools.train_sam_demo.losses import enlarge
from tools.train_sam_demo.network import normalise
from tools.train_sam_demo.photographs import photo
from tools.train_sam_demo.pictures import mark, overlay
from tools.train_sam_demo.scenes import Scene

Ellipse = tuple[float, float, float, float, float]

COINS: Final[tuple[Ellipse, ...]] = (
    (358.7, 268.1, 40.7, 47.5, 91.5),
    (113.8, 265.8, 41.4, 43.4, 102.1),
    (300.8, 263.2, 47.7, 52.7, 59.6),
    (243.9, 263.3, 46.0, 49.3, 68.3),
    (172.5, 261.0, 50.9, 57.2, 91.5),
    (46.1, 259.7, 54.2, 55.9, 70.2),
    (154.2, 197.7, 38.0, 39.4, 86.6),
    (43.5, 197.0, 36.4, 38.0, 95.1),
    (101.8, 195.5, 42.7, 44.5, 95.6),
    (273.9, 194.0, 42.3, 47.8, 125.3),
    (212.5, 193.2, 46.3, 48.4, 92.5),
    (347.2, 186.2, 61.0, 64.3, 94.7),
    (153.5, 127.5, 35.4, 39.9, 84.3),
    (102.3, 125.7, 36.4, 38.7, 63.6),
    (336.3, 124.5, 38.6, 40.1, 56.1),
    (205.5, 124.2, 37.8, 41.3, 61.9),
    (44.9, 124.5, 39.8, 42.5, 50.2),
    (270.9, 119.2, 47.8, 51.2, 84.5),
    (100.4, 56.5, 34.6, 38.9, 96.1),
    (44.1, 54.9, 36.3, 43.2, 82.3),
    (276.9, 52.8, 37.6, 38.8, 97.6),
    (215.5, 51.5, 42.0, 45.6, 86.0),
    (155.4, 51.3, 43.3, 45.9, 88.9),
    (334.9, 43.7, 55.4, 58.8, 92.1),
)
"""(x, y) of the centre, both diameters and the turn in degrees, px of photos/coins.jpg."""


@dataclass(frozen=True, slots=True)
class Question:
    """A click (x, y) or a box (x0, y0, x1, y1) in px of the stored photograph."""

    photo: str
    at: tuple[float, ...]


QUESTIONS: Final = (
    Question("chelsea", (136, 86, 206, 148)),
    Question("chelsea", (319, 136)),
    Question("chelsea", (260, 240)),
    Question("coffee", (147, 13, 348, 205)),
    Question("coffee", (120, 220)),
    Question("coffee", (255, 135)),
    Question("coffee", (309, 245)),
    Question("astronaut", (134, 348, 210, 424)),
    Question("astronaut", (280, 345, 505, 512)),
    Question("astronaut", (200, 130)),
    Question("astronaut", (100, 320)),
    Question("rocket", (246, 100, 270, 328)),
    Question("coins", (20, 230, 76, 288)),
    Question("coins", (336, 124)),
)


def coins(size: int) -> Scene:
    """Return the photograph of coins as a scene of the given size: resized, padded, with true masks."""
    image = photo("coins")
    scale = size / max(image.shape[:2])
    masks = []
    for x, y, wide, high, turn in COINS:
        mask = np.zeros((size, size), np.uint8)
        centre = ((x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5)
        cv2.ellipse(mask, (centre, (wide * scale, high * scale), turn), 1, -1)
        masks.append(mask > 0)
    return Scene(
        image=padded(fitted(image, size), size),
        masks=np.stack(masks),
        families=("coin",) * len(masks),
        parents=np.full(len(masks), -1, np.int64),
    )


@torch.no_grad()
def answer(sam: Sam, question: Question) -> list[NDArray[np.uint8]]:
    """Return the photograph with the prompt, and the model's masks, as RGB images of one size.

    For a box this is mask 0, for a click the three masks, best score first.
    """
    size, low = sam.image_size, 4 * sam.embedding_size
    image = photo(question.photo)
    scale = size / max(image.shape[:2])
    small = fitted(image, size)
    points = np.array(question.at, np.float32).reshape(-1, 2) * np.float32(scale)
    boxed = len(points) == 2
    embedding = sam.encode(normalise(torch.from_numpy(padded(small, size))[None]))
    coords = torch.from_numpy(points if boxed else np.concatenate([points, np.zeros((1, 2), np.float32)]))[None]
    labels = torch.tensor([[2, 3] if boxed else [1, -1]], dtype=torch.int32)
    logits, scores = sam.decode(embedding, coords, labels, torch.zeros(1, 1, low, low), torch.zeros(1))
    masks = (enlarge(logits, size)[0] > 0).numpy()[:, : small.shape[0], : small.shape[1]]
    rows = [0] if boxed else [int(row) + 1 for row in scores[0, 1:].argsort(descending=True)]
    asked = mark(small, points[:0] if boxed else points, points if boxed else None)
    return [asked, *(overlay(small, masks[row : row + 1]) for row in rows)]


def all_of_it(sam: Sam, name: str) -> list[NDArray[np.uint8]]:
    """Return a photograph and everything that the model finds in it, as RGB images of one size."""
    small = fitted(photo(name), sam.image_size)
    drawn = Scene(padded(small, sam.image_size), np.zeros((0, 1, 1), np.bool_), (), np.zeros(0, np.int64))
    found = everything(sam, drawn, 16, score=0.75, stability=0.85, overlap=0.6).numpy()
    return [small, overlay(small, found[:, : small.shape[0], : small.shape[1]])]
