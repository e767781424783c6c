"""Scenes in the form of SAM's inputs: enlarged, or non-square and padded with the mean colour."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from samedge.models.sam.configs import IMAGENET
from tools.train_sam_demo.scenes import SMALLEST_SHARE, Scene

_NARROWEST = 0.5


def padded(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Place an image uint8 ``[h, w, 3]``, with sides of at most size, at the top left of a size x size image."""
    out = np.empty((size, size, 3), np.uint8)
    # The bytes nearest to SAM's padding, which is 0 after normalisation.
    out[:] = np.round(IMAGENET.pixel_mean)
    out[: image.shape[0], : image.shape[1]] = image
    return out


def padding(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return a mask of the pixels of an image uint8 ``[H, W, 3]`` that have the padding's colour, bool ``[H, W]``."""
    return np.asarray((image == np.round(IMAGENET.pixel_mean).astype(np.uint8)).all(2))


def fitted(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize an image so that its longer side is `size`, keeping its aspect ratio."""
    scale = size / max(image.shape[:2])
    height, width = round(image.shape[0] * scale), round(image.shape[1] * scale)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def enlarged(drawn: Scene, size: int) -> Scene:
    """Return a scene at size x size, enlarged like an image smaller than SAM's input."""
    if drawn.image.shape[0] == size:
        return drawn
    masks = [cv2.resize(mask.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) for mask in drawn.masks]
    return Scene(fitted(drawn.image, size), np.stack(masks) > 0, drawn.families, drawn.parents)


def cut(drawn: Scene, rng: np.random.Generator) -> Scene:
    """Crop the scene to portrait or landscape, with padding; return it unchanged if no mask would remain."""
    size = drawn.image.shape[0]
    kept = round(size * rng.uniform(_NARROWEST, 1.0))
    view = (slice(kept), slice(size)) if rng.random() < 0.6 else (slice(size), slice(kept))
    masks = np.zeros_like(drawn.masks)
    masks[:, view[0], view[1]] = drawn.masks[:, view[0], view[1]]
    before, after = drawn.masks.sum((1, 2)), masks.sum((1, 2))
    rows = np.flatnonzero((after >= SMALLEST_SHARE * size**2) & (after > 0.3 * before))
    if not rows.size:
        return drawn
    new_row = {int(old): new for new, old in enumerate(rows)}
    return Scene(
        image=padded(drawn.image[view], size),
        masks=masks[rows],
        families=tuple(drawn.families[row] for row in rows),
        parents=np.array([new_row.get(int(drawn.parents[row]), -1) for row in rows], np.int64),
    )
