"""Scaling of pixel values of any type to 0..255.

Cameras, microscopes and satellites store 10, 12 or 14 bits in 16: scaled over all 16, such an image is nearly black.
"""

from __future__ import annotations

import warnings
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from samedge.errors import ImageError, SamedgeWarning, UsageError

RangeName: TypeAlias = Literal["full", "image"]
VALUE_RANGES: Final[tuple[RangeName, ...]] = get_args(RangeName)
ValueRange: TypeAlias = tuple[float, float] | RangeName | None
"""The values that become black and white: a pair; "full" for all that the integer type holds; "image" for the least and
greatest of each image; None for the rule of `to_uint8`."""

_CAMERA_BITS: Final = (8, 10, 12, 14, 16)


def to_uint8(values: NDArray[Any], value_range: ValueRange = None, where: object = None) -> NDArray[np.uint8]:
    """Scale pixel values linearly to 0..255, rounded to the nearest; values outside the range become 0 or 255.

    Without a range, floats must lie in 0..1, bool is black and white, and integers of more than 8 bits must lie in
    0..65535 and are taken as 8, 10, 12, 14 or 16 bits: the fewest that hold the greatest value of the image. A
    `SamedgeWarning` names the range, except for 16 bits and for 8 bits in integers of 32 or 64.

    Args:
        values: Any shape.
        value_range: The values that become 0 and 255.
        where: Name of the image in messages.

    Raises:
        ImageError: The values are not numbers, are not finite, or do not tell their range.
        UsageError: The range is empty or is not one.
    """
    if values.dtype.kind not in "buif":
        raise ImageError(
            f"invalid image dtype {values.dtype}", where=where, cure="Convert it to uint8, 0..255", dtype=values.dtype
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ImageError(
            f"the image has values of {values.dtype} that are not finite",
            where=where,
            cure="Replace NaN and infinity, for example with numpy.nan_to_num",
            dtype=values.dtype,
        )
    low, high = _limits(values, value_range, where)
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    elif (low, high) == (0, 255) and values.dtype.kind in "iu":
        clipped: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
        return clipped
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        # A table instead of arithmetic, which would need eight bytes per value.
        kinds = np.iinfo(values.dtype)
        every = np.arange(kinds.min, kinds.max + 1, dtype=np.int32)
        table = _scaled(every, low, high)
        scaled: NDArray[np.uint8] = table[values.astype(np.int32) - kinds.min]
        return scaled
    return _scaled(values, low, high)


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    share = (values.astype(np.float64) - low) * (255 / (high - low))
    scaled: NDArray[np.uint8] = np.clip(np.rint(share), 0, 255).astype(np.uint8)
    return scaled


def _limits(values: NDArray[Any], value_range: ValueRange, where: object) -> tuple[float, float]:
    """Return the values that become black and white."""
    if value_range == "full":
        if values.dtype.kind in "iu":
            kinds = np.iinfo(values.dtype)
            return kinds.min, kinds.max
        return 0, 1
    if value_range == "image":
        low, high = float(values.min()), float(values.max())
        return (low, high) if low < high else (low, low + 1)
    if value_range is None:
        return _guessed_limits(values, where)
    try:
        low, high = (float(limit) for limit in value_range)
    except (TypeError, ValueError):
        low = high = 0
    if not (low < high and np.isfinite([low, high]).all()):
        raise UsageError(
            f"invalid value range {value_range!r}",
            cure='Give two numbers, the first of which is less, such as (0, 4095); or "full", or "image"',
        )
    return low, high


def _guessed_limits(values: NDArray[Any], where: object) -> tuple[float, float]:
    if values.dtype in (np.bool_, np.uint8):
        return 0, 1 if values.dtype == np.bool_ else 255
    low, high = values.min().item(), values.max().item()
    most = 1 if values.dtype.kind == "f" else 65535
    if low < 0 or high > most:
        raise ImageError(
            f"the image has values of {values.dtype} from {low:g} to {high:g}, which do not tell what is black and "
            "what is white",
            where=where,
            cure=f"Give value_range=(low, high) (--value-range LOW,HIGH), or values of 0..{most}",
            dtype=values.dtype,
        )
    if values.dtype.kind == "f":
        return 0, 1
    bits = next(bits for bits in _CAMERA_BITS if high < 1 << bits)
    if 8 < bits < 16 or (bits == 8 and high > 0 and values.dtype.itemsize == 2):
        white = (1 << bits) - 1
        warnings.warn(
            f"an image of {values.dtype} whose values end at or below {white} was read as {bits}-bit, 0..{white}; give "
            'value_range (--value-range) to choose the range, such as "full" for all of the type',
            SamedgeWarning,
            stacklevel=2,
        )
    return 0, (1 << bits) - 1
