"""Input ranges of a YOLO engine: one for each free axis of its graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from samedge.bundle.manifest import Manifest
from samedge.errors import UsageError
from samedge.options import AxisRange

_BATCH: Final = AxisRange(1, 1, 4)
_LARGEST: Final = 1280
"""Longest side of an input, px, unless the model is meant for a longer one: the largest that are trained."""


def yolo_profiles(manifest: Manifest, asked: Mapping[str, AxisRange | None]) -> dict[str, AxisRange]:
    """Return the sizes of the free axes of a YOLO's input.

    The smallest side is that of the stride, because of a wide image little is left when its padding is cut down.

    Args:
        manifest: Of a YOLO's bundle.
        asked: "batch", "height" and "width" to what the user wants; None for the defaults.

    Raises:
        UsageError: The axis is fixed in the graph, or sides are no multiples of the stride.
    """
    yolo = manifest.yolo
    free = {axis for port in manifest.graph("yolo").inputs.values() for axis in port.shape if isinstance(axis, str)}
    if yolo is None:
        return {}
    stride = max(yolo.strides)
    meant = dict(zip(("height", "width"), yolo.image_size, strict=True))
    found: dict[str, AxisRange] = {}
    for axis, wish in asked.items():
        option = f"--{axis}"
        if axis not in free:
            if wish is not None:
                raise UsageError(
                    f"the graph fixes the {axis} of its input", where=option,
                    cure="Leave it out, or export the model with free sizes (--dynamic)",
                )  # fmt: skip
            continue
        side = meant.get(axis)
        sizes = wish or (_BATCH if side is None else AxisRange(stride, side, max(side, _LARGEST)))
        if axis in meant and any(side % stride for side in (sizes.minimum, sizes.optimum, sizes.maximum)):
            raise UsageError(
                f"{sizes} px are not possible for this model", where=option, cure=f"Choose multiples of {stride}"
            )
        found[axis] = sizes
    return found
