"""Crops of the photographs beside this module, for backgrounds and fills; each belongs to one split."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

FOLDER: Final = Path(__file__).with_name("photos")
TRAIN_PHOTOS: Final = ("astronaut", "camera", "clock", "coffee", "grass", "hubble", "ihc", "rocket")
HELD_OUT_PHOTOS: Final = ("brick", "chelsea", "coins", "gravel")


@lru_cache(maxsize=16)
def photo(name: str) -> NDArray[np.uint8]:
    """Return a photograph as uint8 RGB ``[H, W, 3]``, which must not be modified.

    Raises:
        FileNotFoundError: There is no such photograph.
    """
    path = FOLDER / f"{name}.jpg"
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(path)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def crop(names: tuple[str, ...], rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Return a random crop of one of the photographs, float32 ``[height, width, 3]`` in 0..255.

    Resizing, mirroring and colour changes make the most of a handful of photographs.
    """
    image = photo(names[int(rng.integers(len(names)))])
    rows, columns = image.shape[:2]
    share = rng.uniform(0.25, 1.0)
    h = max(8, int(share * min(rows, columns * height / width)))
    w = max(8, min(columns, int(h * width / height)))
    y, x = int(rng.integers(0, rows - h + 1)), int(rng.integers(0, columns - w + 1))
    piece = cv2.resize(image[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    if rng.random() < 0.3:
        piece = piece[::-1]
    if rng.random() < 0.5:
        piece = piece[..., rng.permutation(3)]
    tint = rng.uniform(0.7, 1.3, 3).astype(np.float32)
    piece = (piece - 128) * np.float32(rng.uniform(0.6, 1.2)) * tint + 128 + rng.uniform(-40, 40)
    return np.asarray(np.clip(piece, 0, 255), np.float32)
