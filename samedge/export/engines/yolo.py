"""The engine of a YOLO, with a range for each free axis of its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from samedge.bundle.manifest import Manifest
from samedge.errors import UsageError
from samedge.export.engines.family import FamilyEngines
from samedge.export.engines.target import EngineTarget
from samedge.options import AxisRange, EngineBuildOptions, ExportOptions, changed_fields, refuse_foreign
from samedge.runtime.yolo.input_limits import INPUT_AXES
from samedge.runtime.yolo.suppression import no_suppression

_BATCH: Final = AxisRange(1, 1, 4)
_LARGEST: Final = 1280
"""Longest side of an input, px, unless the model's own is longer: the largest size that models are trained at."""


class YoloEngines(FamilyEngines):
    """The engines of YOLO and FastSAM; the probes are drawn to fit."""

    def refuse(self, options: ExportOptions, target: EngineTarget) -> None:
        """Refuse suppression for TensorRT for RTX."""
        if options.yolo.nms and target.flavour.is_rtx:
            raise no_suppression("--nms")

    def profiles(self, manifest: Manifest, options: EngineBuildOptions) -> dict[str, AxisRange]:
        """Return a range for each free axis of the input; see `yolo_profiles`."""
        changed = changed_fields(options)
        refuse_foreign("a YOLO", {f"--{name}": name in changed for name in ("prompts", "points")})
        return yolo_profiles(manifest, {name: getattr(options, name) for name in INPUT_AXES})

    def half_rungs(self, rungs: Sequence[str]) -> tuple[str, ...]:
        """Return the first and last: there are no norms once they are folded."""
        return rungs[0], rungs[-1]


def yolo_profiles(manifest: Manifest, requested: Mapping[str, AxisRange | None]) -> dict[str, AxisRange]:
    """Return the ranges of the free axes of a YOLO's input.

    The smallest side is the stride, since little remains of a wide image's short side when its padding is trimmed.

    Args:
        manifest: Of a YOLO's bundle.
        requested: "batch", "height" and "width" to the requested range; None for the default.

    Raises:
        UsageError: The axis is fixed in the graph, or sides are not multiples of the stride.
    """
    yolo = manifest.yolo
    free = {axis for port in manifest.graph("yolo").inputs.values() for axis in port.shape if isinstance(axis, str)}
    if yolo is None:
        return {}
    stride = max(yolo.strides)
    meant = dict(zip(("height", "width"), yolo.image_size, strict=True))
    found: dict[str, AxisRange] = {}
    for axis, given in requested.items():
        option = f"--{axis}"
        if axis not in free:
            if given is not None:
                raise UsageError(
                    f"the graph fixes the {axis} of its input", where=option,
                    cure="Omit it, or export the model with free sizes (--dynamic)",
                )  # fmt: skip
            continue
        side = meant.get(axis)
        sizes = given or (_BATCH if side is None else AxisRange(stride, side, max(side, _LARGEST)))
        if axis in meant and any(side % stride for side in (sizes.minimum, sizes.optimum, sizes.maximum)):
            raise UsageError(f"sizes of {sizes} px are unsupported", where=option, cure=f"Choose multiples of {stride}")
        found[axis] = sizes
    return found
