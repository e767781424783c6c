"""From a loaded model to the manifest of its bundle: what export asks of a family."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from samedge.bundle.manifest import Manifest, ModelRecord
from samedge.families import Family, find_family
from samedge.options import ExportOptions
from samedge.types import Progress

if TYPE_CHECKING:
    from samedge.models.load import Loaded


class FamilyExporter(Protocol):
    """Export's side of a family; it is given what the family's loader returned."""

    def describe(self, loaded: Any, image_size: int | tuple[int, int] | None = None) -> ModelRecord:
        """Return the manifest's record of a model.

        Args:
            loaded: The model.
            image_size: Side of the input, or (height, width), px, for models that take any; None for their own.
        """
        ...

    def write(self, loaded: Any, stage: Path, stem: str, options: ExportOptions, report: Progress) -> Manifest:
        """Write the graphs of a model into a folder, prove them, and return the manifest of their bundle.

        Args:
            loaded: The model.
            stage: The folder.
            stem: Beginning of file names.
            options: What was asked for.
            report: Called as the work goes on.

        Raises:
            UsageError: An option means nothing for this family.
            SamedgeError: As `samedge.export_model`.
        """
        ...


def exporter_of(family: Family) -> FamilyExporter:
    """Import export's side of a family."""
    return cast("FamilyExporter", family.make(family.exporter))


def exporter_for(loaded: Loaded) -> FamilyExporter:
    """Import export's side of the family that a model is of."""
    return exporter_of(find_family(loaded.family))
