"""The engine of a family of one graph: for a range of images, where their number is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from samedge.bundle.archive import Bundle
from samedge.bundle.manifest import Manifest
from samedge.engines.tensorrt.build.options import AxisRange
from samedge.errors import UsageError
from samedge.export.engines.target import EngineTarget
from samedge.options import refuse_foreign
from samedge.types import Precision

_USUAL: Final = AxisRange(1, 1, 4)


class OneGraphEngines:
    """The `samedge.export.engines.family.FamilyEngines` of families of one graph."""

    def profiles(self, manifest: Manifest, asked: Mapping[str, AxisRange | str | None]) -> dict[str, AxisRange]:
        """See `FamilyEngines`: a range for each free axis of the input."""
        family = manifest.model_family
        ports = manifest.graph(family.main).inputs.values()
        free = dict.fromkeys(axis for port in ports for axis in port.shape if isinstance(axis, str))
        refuse_foreign(
            family.title, {f"--{name}": sizes is not None for name, sizes in asked.items() if name not in free}
        )
        wanted = {axis: asked.get(axis) or _USUAL for axis in free}
        found = {
            axis: AxisRange.parse(sizes, f"--{axis}") if isinstance(sizes, str) else sizes
            for axis, sizes in wanted.items()
        }
        for axis, sizes in found.items():
            if sizes.minimum != 1:
                raise UsageError(
                    f"{sizes} leaves out a single image, and the probes are single images",
                    where=f"--{axis}",
                    cure="Begin at 1",
                )
        return found

    def half_rungs(self, rungs: Sequence[str]) -> tuple[str, ...]:
        """See `FamilyEngines`: each of them differs."""
        return tuple(rungs)

    def require_judged(self, profiles: Mapping[str, AxisRange]) -> None:
        """See `FamilyEngines`: every range has a single image."""

    def advice(self, bundle: Bundle, target: EngineTarget, precision: Precision) -> tuple[str, ...]:
        """See `FamilyEngines`: there is none."""
        return ()
