"""Point grids of segment everything, as shares of the image or crop; bit-identical to Meta's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samedge.errors import UsageError
from samedge.types import Array


def point_grid(side: int) -> NDArray[np.float64]:
    """Return the centres of ``side`` x ``side`` equal cells: float64 ``[side * side, 2]``, row by row.

    Args:
        side: Points along each side, at least 1.
    """
    offset = 1 / (2 * side)
    axis = np.linspace(offset, 1 - offset, side)
    return np.stack([np.tile(axis, side), np.repeat(axis, side)], axis=-1)


def layer_grids(
    side: int | None, grids: Sequence[Array] | None, crop_layers: int, factor: int
) -> tuple[NDArray[np.float64], ...]:
    """Return the points of the whole image and of each layer of crops, float64 ``[N, 2]``: (x, y) from 0 to 1.

    Args:
        side: Points along each side of the image, or None with grids.
        grids: Points of each layer.
        crop_layers: Layers besides the whole image.
        factor: In layer n, the side has fewer points by ``factor ** n``.

    Raises:
        UsageError: A layer has no points, or an array is invalid.
    """
    if grids is None:
        sides = [int((side or 0) / factor**layer) for layer in range(crop_layers + 1)]
        if min(sides) < 1:
            raise UsageError(
                f"{side} points per side are too few for {crop_layers} layers of crops with a factor of {factor}",
                where="crop_n_points_downscale_factor",
                cure="Give more points, fewer layers, or a smaller factor",
            )
        return tuple(point_grid(count) for count in sides)
    arrays = tuple(np.asarray(grid, np.float64) for grid in grids)
    if len(arrays) <= crop_layers:
        raise UsageError(
            f"{len(arrays)} grids given, but the image and {crop_layers} layers of crops need {crop_layers + 1}",
            where="point_grids",
            cure="Give one grid for each",
        )
    for grid in arrays:
        # Comparisons with NaN are false, so it is rejected too.
        if grid.ndim != 2 or grid.shape[1] != 2 or not len(grid) or not ((grid >= 0) & (grid <= 1)).all():
            raise UsageError(
                f"invalid grid of shape {grid.shape}, or with points outside 0 to 1",
                where="point_grids",
                cure="Give (N, 2): x and y as shares of width and height",
                shape=grid.shape,
            )
    return arrays
