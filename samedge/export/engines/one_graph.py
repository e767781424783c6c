"""The engine of a family of one graph: for a range of images, where their number is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from samedge.bundle.archive import Bundle
from samedge.bundle.manifest import Manifest
from samedge.errors import UsageError
from samedge.export.engines.target import EngineTarget
from samedge.options import AxisRange, EngineBuildOptions, ExportOptions, changed_fields, refuse_foreign
from samedge.types import Precision

_AXES: Final = ("prompts", "points", "batch", "height", "width")
_USUAL: Final = AxisRange(1, 1, 4)


class OneGraphEngines:
    """The `samedge.export.engines.family.FamilyEngines` of families of one graph."""

    def refuse(self, options: ExportOptions, target: EngineTarget) -> None:
        """See `FamilyEngines`: there is nothing to refuse."""

    def profiles(self, manifest: Manifest, asked: EngineBuildOptions) -> dict[str, AxisRange]:
        """See `FamilyEngines`: a range for each free axis of the input."""
        family = manifest.model_family
        ports = manifest.graph(family.main).inputs.values()
        free = dict.fromkeys(axis for port in ports for axis in port.shape if isinstance(axis, str))
        changed = changed_fields(asked)
        refuse_foreign(family.title, {f"--{name}": name in changed for name in _AXES if name not in free})
        return {axis: (getattr(asked, axis) if axis in changed else _USUAL) for axis in free}

    def half_rungs(self, rungs: Sequence[str]) -> tuple[str, ...]:
        """See `FamilyEngines`: each of them differs."""
        return tuple(rungs)

    def require_judged(self, profiles: Mapping[str, AxisRange]) -> None:
        """See `FamilyEngines`: the probes are single images."""
        for axis, sizes in profiles.items():
            if sizes.minimum != 1:
                raise UsageError(
                    f"an engine for {sizes} does not take the probes, which are single images",
                    where=f"--{axis}",
                    cure="Begin at 1, or build with --no-check",
                )

    def advice(self, bundle: Bundle, target: EngineTarget, precision: Precision) -> tuple[str, ...]:
        """See `FamilyEngines`: there is none."""
        return ()
