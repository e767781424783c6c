"""The gathers that take the heads of windows from projected tokens, and tokens from the heads of windows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class WindowRows:
    """Rows to gather, each one head of one token: cutting windows and bringing heads to the front is one copy.

    Attributes:
        query: int64 ``[windows * heads * inside]``, among ``tokens * 3 * heads`` rows of queries, keys and values.
        key: The same of keys.
        value: The same of values.
        back: int64 ``[tokens * heads]``, among ``windows * heads * inside`` rows of what was attended.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    back: Tensor


def window_rows(cut: Tensor, place: Tensor, heads: int, inside: int) -> WindowRows:
    """Return the rows for tokens whose projection has all queries first, then all keys, then all values.

    Args:
        cut: As `samedge.models.sam.encoders.vit.window_index` returns it, as is ``place``.
        place: See there.
        heads: Attention heads.
        inside: Tokens of a window.
    """
    tokens = cut.reshape(-1, 1, inside)
    head = torch.arange(heads).reshape(1, heads, 1)
    query, key, value = ((tokens * (3 * heads) + which * heads + head).reshape(-1) for which in range(3))
    window, within = place // inside, place % inside
    back = (window[:, None] * heads + torch.arange(heads)) * inside + within[:, None]
    return WindowRows(query, key, value, back.reshape(-1))
