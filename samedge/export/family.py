"""The exporters of families, from a loaded model to the manifest of its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from samedge.bundle.manifest import Manifest, ModelRecord
from samedge.families import Family
from samedge.options import ExportOptions
from samedge.types import Progress


class FamilyExporter(Protocol):
    """The exporter of a family; it receives what the family's loader returned."""

    def describe(self, loaded: Any, image_size: int | tuple[int, int] | None = None) -> ModelRecord:
        """Return the manifest's record of a model.

        Args:
            loaded: The model.
            image_size: Side of the input, or (height, width), px, for models that accept any size; None for their own.
        """
        ...

    def write(self, loaded: Any, stage: Path, stem: str, options: ExportOptions, report: Progress) -> Manifest:
        """Write the graphs of a model into a folder, compare them with it, and return the manifest of their bundle.

        Args:
            loaded: The model.
            stage: The folder.
            stem: Beginning of file names.
            options: All options.
            report: Called as the work proceeds.

        Raises:
            UsageError: An option does not apply to this family.
            SamedgeError: As `samedge.export_model`.
        """
        ...


def exporter_of(family: Family) -> FamilyExporter:
    """Import and instantiate a family's `FamilyExporter`."""
    return cast("FamilyExporter", family.make(family.exporter))


def part_of(report: Progress, start: float, length: float) -> Progress:
    """Return the progress of one part of the work, which reports shares from `start` on."""
    return lambda step, share: report(step, start + length * share)
