"""What the first calls cost, paid before the first picture: memory, kernels that a runtime picks, CUDA graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from samedge.runtime.predictor import Predictor

_TIMES: Final = 3
"""A CUDA graph is captured at the second call of a shape, if memory did not have to grow for another one since."""


def warm_up(predictor: Predictor, prompts: Sequence[int], points: Sequence[int]) -> None:
    """Encode an empty picture and asks prompts about it, a few times.

    Args:
        predictor: Its present image is lost.
        prompts: Numbers of prompts.
        points: Numbers of points of each prompt.

    Raises:
        EngineError: A graph failed.
    """
    size = predictor.info.input.image_size
    # The largest first, so that memory grows once.
    shapes = sorted(((count, each) for count in prompts for each in points), key=lambda shape: -shape[0] * shape[1])
    for _ in range(_TIMES):
        predictor.set_image(np.zeros((size, size, 3), np.uint8))
        for count, each in shapes:
            predictor.predict(points=np.full((count, each, 2), size / 2), multimask=True)
