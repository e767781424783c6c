"""The engine of a model with a single graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from samedge.bundle.manifest import Manifest
from samedge.errors import UsageError
from samedge.export.engines.family import FamilyEngines
from samedge.options import AxisRange, EngineBuildOptions, changed_fields, refuse_foreign

_AXES: Final = ("prompts", "points", "batch", "height", "width")
_USUAL: Final = AxisRange(1, 1, 4)


class OneGraphEngines(FamilyEngines):
    """The engines of families with a single graph."""

    def profiles(self, manifest: Manifest, options: EngineBuildOptions) -> dict[str, AxisRange]:
        """Return a range for each free axis of the input."""
        family = manifest.model_family
        ports = manifest.graph(family.main).inputs.values()
        free = dict.fromkeys(axis for port in ports for axis in port.shape if isinstance(axis, str))
        changed = changed_fields(options)
        refuse_foreign(family.title, {f"--{name}": name in changed for name in _AXES if name not in free})
        return {axis: (getattr(options, axis) if axis in changed else _USUAL) for axis in free}

    def require_judged(self, profiles: Mapping[str, AxisRange]) -> None:
        """Require ranges from 1: the probes are single images."""
        for axis, sizes in profiles.items():
            if sizes.minimum != 1:
                raise UsageError(
                    f"an engine for {sizes} does not accept the probes, which are single images",
                    where=f"--{axis}",
                    cure="Begin at 1, or build with --no-check",
                )
