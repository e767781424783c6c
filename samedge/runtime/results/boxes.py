"""Boxes: the boxes, scores and classes of results, in the four common box formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from samedge.errors import UsageError
from samedge.runtime.masks.rle import mask_extent
from samedge.runtime.results.host_array import HostArrays, HostFloats, host_floats
from samedge.types import Array, BoolArray, FloatArray

Selection: TypeAlias = "int | slice | Sequence[int] | Sequence[bool] | NDArray[np.bool_] | NDArray[np.integer]"
"""A selection of rows: an index, a slice, a list of indices, or a list or array of booleans."""


def selected_rows(count: int, selection: Selection) -> NDArray[np.intp]:
    """Return the selected row indices, in an array even for a single index; raise IndexError like numpy."""
    rows: NDArray[np.intp] = np.arange(count)[selection].reshape(-1)
    return rows


class Boxes(HostArrays):
    """N boxes with score and class.

    For masks of SAM, a box runs from the first to the last column and row of its mask, the score is the predicted IoU,
    and the class is the index of the prompt.

    Attributes:
        data: float32 ``[N, 6]``: x1, y1, x2, y2 in px, score, class.
        orig_shape: (height, width) of the image, px.

    Raises:
        UsageError: `boxes` is neither ``[N, 6]`` nor ``[6]``.
    """

    def __init__(self, boxes: Array, orig_shape: tuple[int, int]) -> None:
        data = np.asarray(boxes, np.float32)
        if data.ndim == 1 and len(data):
            data = data[None]
        if data.size == 0:
            data = data.reshape(0, 6)
        if data.ndim != 2 or data.shape[1] != 6:
            raise UsageError(
                f"invalid boxes of shape {data.shape}",
                cure="Give (N, 6): x1, y1, x2, y2, score and class",
                shape=data.shape,
            )
        self.data: HostFloats = host_floats(data)
        self.orig_shape = orig_shape

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.data)

    def __getitem__(self, selection: Selection) -> Boxes:
        """Return some of the boxes."""
        return Boxes(self.data[selected_rows(len(self), selection)], self.orig_shape)

    def __iter__(self) -> Iterator[Boxes]:
        """Yield each box as `Boxes`."""
        return (self[at] for at in range(len(self)))

    def __repr__(self) -> str:
        return f"Boxes({len(self)} in an image of {self.orig_shape[1]} x {self.orig_shape[0]} px)"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `data`."""
        return self.data.shape

    @property
    def xyxy(self) -> HostFloats:
        """float32 ``[N, 4]``: left, top, right, bottom in px."""
        return self._columns(slice(4))

    @property
    def conf(self) -> HostFloats:
        """Scores, float32 ``[N]``."""
        return self._columns(4)

    @property
    def cls(self) -> HostFloats:
        """Classes, float32 ``[N]``: whole numbers."""
        return self._columns(5)

    @property
    def id(self) -> None:
        """None: samedge does not track."""
        return

    @property
    def is_track(self) -> bool:
        """False: samedge does not track."""
        return False

    @property
    def xywh(self) -> HostFloats:
        """float32 ``[N, 4]``: x and y of the centre, width, height in px."""
        corners = self.data.numpy()
        left_top, right_bottom = corners[:, :2], corners[:, 2:4]
        return host_floats(np.concatenate([(left_top + right_bottom) / np.float32(2), right_bottom - left_top], axis=1))

    @property
    def xyxyn(self) -> HostFloats:
        """`xyxy` as shares of the image's width and height."""
        return host_floats(self.xyxy / self._scale)

    @property
    def xywhn(self) -> HostFloats:
        """`xywh` as shares of the image's width and height."""
        return host_floats(self.xywh / self._scale)

    def _columns(self, columns: int | slice) -> HostFloats:
        chosen: HostFloats = self.data[:, columns]
        return chosen

    @property
    def _scale(self) -> FloatArray:
        height, width = self.orig_shape
        return np.array([width, height, width, height], np.float32)


def boxes_of_masks(masks: BoolArray) -> FloatArray:
    """Return the tight boxes of masks, float32 ``[N, 4]``: first and last column and row; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for mask, box in zip(masks, boxes, strict=True):
        extent = mask_extent(mask)
        if extent is not None:
            rows, columns = extent
            box[:] = columns.start, rows.start, columns.stop - 1, rows.stop - 1
    return boxes
