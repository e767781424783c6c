"""Shapes of a state dict, and the error of one that does not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

State: TypeAlias = Mapping[str, Tensor]


class MisfitError(Exception):
    """The weights cannot be of the family they were read as; the text says why. Never leaves the models package."""


def shape_of(state: State, key: str, rank: int) -> tuple[int, ...]:
    """Return the shape of a weight.

    Args:
        state: The weights.
        key: Of this one.
        rank: How many axes it has.

    Raises:
        MisfitError: It is absent, has another number of axes, or no values.
    """
    if key not in state:
        raise MisfitError(f"{key!r} is missing")
    shape = tuple(state[key].shape)
    if len(shape) != rank or 0 in shape:
        raise MisfitError(f"{key!r} has the shape {shape}")
    return shape


def count_entries(state: State, prefix: str) -> int:
    """Return how many numbered entries there are under a prefix. Gaps show later, as keys that are missing."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match.group(1) for key in state if (match := pattern.match(key))})
