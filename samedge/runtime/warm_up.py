"""One prompt on nothing, so that the first one on an image is as quick as the others.

Some backends make their kernels for the shapes that they meet, when they meet them: in OpenVINO the first decode takes
more than three warm ones. Knows decoders, and nothing of backends.
"""

from __future__ import annotations

import numpy as np

from samedge.runtime.decoders import Decoder
from samedge.runtime.prompt_shapes import PADDING
from samedge.runtime.prompts import PromptGroup


def warm_up(decoder: Decoder) -> None:
    """Takes a click to its masks, on an embedding of zeros; does nothing where the size of embeddings is free.

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
