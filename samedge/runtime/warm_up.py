"""What the first calls cost, paid before the first picture: memory, kernels that a runtime picks, CUDA graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from samedge.runtime.decoders import Decoder
from samedge.runtime.prompt_shapes import PADDING
from samedge.runtime.prompts import PromptGroup

if TYPE_CHECKING:
    from samedge.runtime.predictor import Predictor

_TIMES: Final = 3
"""A CUDA graph is captured at the second call of a shape, if memory did not have to grow for another one since."""


def first_click(decoder: Decoder) -> None:
    """Takes a click to its masks, on an embedding of zeros; does nothing where the size of embeddings is free.

    Some backends make their kernels for the shapes that they meet, when they meet them: in OpenVINO the first decode
    takes more than three warm ones.

    Raises:
        EngineError: A graph failed.
    """
    sizes = [size for size in decoder.embedding_spec.shape[1:] if isinstance(size, int)]
    if len(sizes) != len(decoder.embedding_spec.shape) - 1:
        return
    click = PromptGroup(
        index=np.arange(1),
        coords=np.zeros((1, 2, 2), np.float32),
        labels=np.array([[1, PADDING]], np.int32),
        masks=None,
        has_mask=np.zeros(1, np.float32),
    )
    context = decoder.context(np.zeros((1, *sizes), np.float32))
    decoder.answer(context, click).draw(np.arange(1))


def warm_up(predictor: Predictor, prompts: Sequence[int], points: Sequence[int]) -> None:
    """Encodes an empty picture and asks prompts about it, a few times.

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
