"""The engines of families: sizes, precisions and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from samedge.bundle.archive import Bundle
from samedge.bundle.manifest import Manifest
from samedge.export.engines.target import EngineTarget
from samedge.families import Family
from samedge.options import AxisRange, EngineBuildOptions, ExportOptions
from samedge.types import Precision


class FamilyEngines(Protocol):
    """The engines of a family; all but `profiles` have defaults for classes that inherit it."""

    def refuse(self, options: ExportOptions, target: EngineTarget) -> None:
        """Refuse options of this family that no engine supports, before the export.

        Raises:
            UsageError: One was given.
        """

    def profiles(self, manifest: Manifest, options: EngineBuildOptions) -> dict[str, AxisRange]:
        """Return the range of each free axis.

        Raises:
            UsageError: An axis does not apply to this family, is fixed in the graph, or does not accept these sizes.
        """
        ...

    def half_rungs(self, rungs: Sequence[str]) -> tuple[str, ...]:
        """Return the rungs of float16 that make a difference to graphs of this family."""
        return tuple(rungs)

    def require_judged(self, profiles: Mapping[str, AxisRange]) -> None:
        """Refuse ranges that exclude the probes.

        Raises:
            UsageError: They do.
        """

    def advice(self, bundle: Bundle, target: EngineTarget, precision: Precision) -> tuple[str, ...]:
        """Return sentences of advice for faster engines."""
        return ()


def engines_of(family: Family) -> FamilyEngines:
    """Import and instantiate a family's `FamilyEngines`."""
    return cast("FamilyEngines", family.make(family.engines))
