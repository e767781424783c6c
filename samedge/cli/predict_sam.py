"""The commands with a SAM: which options it takes, and what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from samedge.cli.family import Asked, Place

if TYPE_CHECKING:
    from samedge.api.sam import SAM
    from samedge.bundle.manifest import Manifest
    from samedge.runtime.results.results import Results


class SamCommand:
    """The `samedge.cli.family.FamilyCommand` of SAM."""

    def open(self, model: str, asked: Asked, place: Place) -> SamFinder:
        """See `FamilyCommand`."""
        from samedge.api.sam import SAM
        from samedge.options import refuse_foreign

        refuse_foreign("a SAM", asked.given("iou", "max_det", "agnostic_nms", "imgsz", "classes"))
        return SamFinder(
            SAM(model, backend=place.backend, device=place.device, threads=place.threads, force=place.force), asked
        )

    def rows(self, manifest: Manifest) -> dict[str, str]:
        """See `FamilyCommand`."""
        source = manifest.input
        return {
            "input": f"{source.image_size} px, mean {source.pixel_mean}, std {source.pixel_std}",
            "I/O scheme": manifest.io,
        }

    def measured_at(self, manifest: Manifest) -> str:
        """See `FamilyCommand`: its input has one size."""
        return ""


class SamFinder:
    """The `samedge.cli.family.Finder` of a SAM."""

    def __init__(self, sam: SAM, asked: Asked) -> None:
        self._sam = sam
        self._asked = asked
        self.backend, self.device = sam.predictor.backend, sam.predictor.device

    def find(self, image: Path) -> Results:
        """See `Finder`."""
        from samedge.cli.prompt_options import shown_search

        asked = self._asked
        if asked.prompts:
            (results,) = self._sam.predict(image, **asked.prompts, multimask_output=asked.multimask, conf=asked.conf)
        else:
            with shown_search(asked.everything or {}) as search:
                (results,) = self._sam.predict(image, conf=asked.conf, **search)
        return cast("Results", results)

    def show(self, results: Results) -> None:
        """See `Finder`."""
        from samedge.cli.tables import print_results

        print_results(results)
