"""Ranges of numbers in records: far beyond any model, so that sizes can be allocated and float32 does not overflow."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

Count: TypeAlias = Annotated[int, Meta(ge=0, lt=1 << 48)]
"""Bytes, parameters, nodes."""
Side: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 14)]
"""Side of an input, px."""
Level: TypeAlias = Annotated[float, Meta(ge=-1e6, le=1e6)]
"""Value of a pixel or a logit."""
Deviation: TypeAlias = Annotated[float, Meta(ge=1e-6, le=1e6)]
"""Divisor of pixels."""
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
"""Score or overlap."""
