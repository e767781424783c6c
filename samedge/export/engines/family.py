"""The engines of a family: for which sizes they are built, in which precisions, and what is to be said of them."""

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
    """The knowledge that a family has of its engines."""

    def refuse(self, options: ExportOptions, target: EngineTarget) -> None:
        """Refuse options of this family, before anything is exported, that no engine can have.

        Raises:
            UsageError: One is such.
        """
        ...

    def profiles(self, manifest: Manifest, asked: EngineBuildOptions) -> dict[str, AxisRange]:
        """Return the range of sizes of each free axis.

        Args:
            manifest: Of the bundle.
            asked: What the user wants.

        Raises:
            UsageError: An axis means nothing for this family, is fixed in the graph, or cannot have these sizes.
        """
        ...

    def half_rungs(self, rungs: Sequence[str]) -> tuple[str, ...]:
        """Return the rungs of float16 that differ from each other in graphs of this family."""
        ...

    def require_judged(self, profiles: Mapping[str, AxisRange]) -> None:
        """Refuse sizes for which the engines could not be judged.

        Raises:
            UsageError: These are such.
        """
        ...

    def advice(self, bundle: Bundle, target: EngineTarget, precision: Precision) -> tuple[str, ...]:
        """Return sentences about what would make faster engines."""
        ...


def engines_of(family: Family) -> FamilyEngines:
    """Import what knows the engines of a family."""
    return cast("FamilyEngines", family.make(family.engines))
