"""COCO's run-length encoding of masks, compressed and uncompressed, byte-identical to pycocotools without needing it.

A mask is read down its columns. Runs alternate, starting with background (possibly of length 0). The compressed form
stores each run but the first three as its difference from the run before the last one, in digits of 5 bits and a
continuation bit, each digit as a printable character. Unlike polygons, it keeps holes and parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from samedge.errors import UsageError
from samedge.types import BoolArray

_DIGIT_BITS: Final = 5
_MORE: Final = 0x20
_SIGN: Final = 0x10
_ZERO: Final = 48
_MOST_DIGITS: Final = 12  # of a difference of two runs: 60 bits


class Rle(TypedDict):
    """A mask in the compressed form: ``size`` is [height, width], ``counts`` is text."""

    size: list[int]
    counts: str


class UncompressedRle(TypedDict):
    """A mask in the uncompressed form: ``size`` is [height, width], ``counts`` are the lengths of the runs."""

    size: list[int]
    counts: list[int]


def encode_rle(mask: BoolArray) -> Rle:
    """Return a mask, bool ``[H, W]``, in COCO's compressed form, with ``counts`` as ``str``.

    Raises:
        UsageError: It is not a 2-D array of bool.
    """
    return Rle(size=[*mask.shape], counts=_compress(_runs_of_mask(mask)))


def encode_rle_window(window: BoolArray, top: int, left: int, size: tuple[int, int]) -> Rle:
    """Return a mask that is empty outside a window in COCO's compressed form, without making the whole mask.

    `top` and `left` are the window's first row and column in the mask; `size` is the mask's (height, width), px.

    Raises:
        UsageError: The window is not inside the mask.
    """
    height, width = size
    if min(top, left) < 0 or top + window.shape[0] > height or left + window.shape[1] > width:
        place = f"a window of {window.shape[1]} x {window.shape[0]} px at ({left}, {top})"
        cure = "Give the window's first row and column, and (height, width) of the mask"
        raise UsageError(f"{place} is not inside a mask of {width} x {height} px", cure=cure)
    return Rle(size=[height, width], counts=_compress(_runs_of_window(window, top, left, size)))


def encode_uncompressed_rle(mask: BoolArray) -> UncompressedRle:
    """Return a mask in COCO's uncompressed form; argument and error as in `encode_rle`."""
    return UncompressedRle(size=[*mask.shape], counts=_runs_of_mask(mask).tolist())


def decode_rle(rle: Mapping[str, object]) -> BoolArray:
    """Return the mask, bool ``[H, W]``.

    Args:
        rle: With "size" [height, width] and "counts", compressed (``str``, or ``bytes`` as pycocotools has them) or not
            (a list of lengths).

    Raises:
        UsageError: It is not an RLE, or its runs do not fill its size.
    """
    height, width, runs = _read(rle)
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    return np.ascontiguousarray(mask)


def uncompress_rle(rle: Mapping[str, object]) -> UncompressedRle:
    """Convert either form to the uncompressed one without decoding it; arguments and errors as in `decode_rle`."""
    height, width, runs = _read(rle)
    return UncompressedRle(size=[height, width], counts=runs.tolist())


def rle_area(rle: Mapping[str, object]) -> int:
    """Return the number of pixels of the mask, without decoding it; arguments and errors as in `decode_rle`."""
    _, _, runs = _read(rle)
    return int(runs[1::2].sum())


def rle_to_box(rle: Mapping[str, object]) -> tuple[int, int, int, int]:
    """Return the tight box (x, y, width, height) in px, without decoding the mask; zeros for an empty mask.

    Width and height count pixels, as in COCO: one pixel has the box (x, y, 1, 1). Arguments and errors as in
    `decode_rle`.
    """
    height, _, runs = _read(rle)
    ends = np.cumsum(runs)
    inside = runs[1::2] > 0
    first = (ends - runs)[1::2][inside]
    last = ends[1::2][inside] - 1
    if not len(first):
        return 0, 0, 0, 0
    left, right = int(first[0]) // height, int(last[-1]) // height
    top, bottom = int((first % height).min()), int((last % height).max())
    if (first // height != last // height).any():  # a run that wraps around the end of a column touches both edges
        top, bottom = 0, height - 1
    return left, top, right - left + 1, bottom - top + 1


def rle_holds(rle: Mapping[str, object], points: NDArray[np.intp]) -> BoolArray:
    """Return True for pixels (x, y), int ``[N, 2]``, that belong to the mask: bool ``[N]``, without decoding it."""
    height, _, runs = _read(rle)
    at = points[:, 0] * height + points[:, 1]
    inside: BoolArray = np.searchsorted(np.cumsum(runs), at, side="right") % 2 == 1
    return inside


def _runs_of_mask(mask: BoolArray) -> NDArray[np.int64]:
    """Return the lengths of the runs, the first one of background."""
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise UsageError(
            f"invalid mask of shape {mask.shape} and dtype {mask.dtype}",
            cure="Give one mask, (H, W), of dtype bool",
            shape=mask.shape,
        )
    extent = mask_extent(mask)
    if extent is None:
        return np.array([mask.size], np.int64)
    rows, columns = extent
    return _runs_of_window(mask[rows, columns], rows.start, columns.start, mask.shape)


def _runs_of_window(window: BoolArray, top: int, left: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the runs of a mask from a window of it, with background outside."""
    height, width = shape
    rows, columns = window.shape
    # Down each column of the window, with a pixel of background before and after it.
    framed = np.zeros((columns, rows + 2), np.bool_)
    framed[:, 1:-1] = window.T
    changes = np.flatnonzero(framed[:, 1:] != framed[:, :-1])
    column, row = np.divmod(changes, rows + 1)
    edges = ((left + column) * height + top + row).astype(np.int64)
    # A run that reaches the bottom of a column and one that begins at the top of the next are one.
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])
    edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    runs = np.diff(np.concatenate([[0], edges, [height * width]]))
    # If the mask ends with the last pixel of the image, no run of background follows.
    return runs if runs[-1] else runs[:-1]


def _read(rle: Mapping[str, object]) -> tuple[int, int, NDArray[np.int64]]:
    """Return height, width and runs of either form, checked."""
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise UsageError(f"invalid RLE size {size!r}", cure="Give [height, width]")
    height, width = size
    if isinstance(counts, str):
        runs = _decompress(counts.encode("utf-8"))
    elif isinstance(counts, bytes):
        runs = _decompress(counts)
    elif isinstance(counts, Sequence) and all(isinstance(run, (int, np.integer)) for run in counts):
        runs = np.array(counts, np.int64)
    else:
        raise UsageError(f"invalid RLE counts of type {type(counts).__name__}", cure="Give text or a list of lengths")
    if (runs < 0).any() or runs.sum() != height * width:
        raise UsageError(
            f"the runs of an RLE sum up to {runs.sum()}, but its size {height} x {width} has {height * width} px",
            cure="Encode the mask again, and give its size as [height, width]",
            size=size,
        )
    return height, width, runs


def _compress(runs: NDArray[np.int64]) -> str:
    values = runs.copy()
    values[3:] -= runs[1:-2]
    digits = np.empty((len(values), _MOST_DIGITS), np.uint8)
    written = np.zeros((len(values), _MOST_DIGITS), np.bool_)
    open_values = np.ones(len(values), np.bool_)
    for at in range(_MOST_DIGITS):
        digit = values & (_MORE - 1)
        values >>= _DIGIT_BITS
        # Done when only the sign remains, and the digit's top bit gives that sign.
        more = np.where(digit & _SIGN, values != -1, values != 0)
        digits[:, at] = digit + np.where(more, _MORE, 0) + _ZERO
        written[:, at] = open_values
        open_values &= more
        if not open_values.any():
            break
    return digits[written].tobytes().decode("ascii")


def _decompress(text: bytes) -> NDArray[np.int64]:
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - _ZERO
    if not len(codes):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(codes & _MORE == 0)
    if codes.min() < 0 or codes.max() >= 2 * _MORE or not len(ends) or ends[-1] != len(codes) - 1:
        raise UsageError("the counts of an RLE are not COCO's compressed text", cure="Encode the mask again")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_DIGITS:
        raise UsageError("the counts of an RLE have a run that is too long", cure="Encode the mask again")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & (_MORE - 1)) << (_DIGIT_BITS * place), starts)
    values -= np.where(codes[ends] & _SIGN, np.int64(1) << (_DIGIT_BITS * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def mask_extent(mask: BoolArray) -> tuple[slice, slice] | None:
    """Return the rows and the columns of the smallest box around a mask, bool ``[H, W]``; None if it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    inside = slice(int(rows[0]), int(rows[-1]) + 1)
    columns = np.flatnonzero(mask[inside].any(axis=0))
    return inside, slice(int(columns[0]), int(columns[-1]) + 1)
