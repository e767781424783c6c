"""The commands with a family of one graph: everything is found at once, and prompts choose among it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from samedge.cli.family import Asked, Place

if TYPE_CHECKING:
    from samedge.bundle.manifest import Manifest
    from samedge.runtime.one_graph import OneGraphPredictor
    from samedge.runtime.results.results import Results

_FOREIGN = ("masks", "each_point", "multimask", "everything", "iou", "max_det", "agnostic_nms", "imgsz", "classes")


class OneGraphCommand:
    """The `samedge.cli.family.FamilyCommand` of families of one graph."""

    def open(self, model: str, asked: Asked, place: Place) -> OneGraphFinder:
        """See `FamilyCommand`."""
        from samedge.api.load import load
        from samedge.bundle.archive import bundle_manifest
        from samedge.options import refuse_foreign

        refuse_foreign(bundle_manifest(model).model_family.title, asked.given(*_FOREIGN))
        predictor = load(model, place.backend, place.device, threads=place.threads, force=place.force)
        return OneGraphFinder(cast("OneGraphPredictor", predictor), asked)

    def rows(self, manifest: Manifest) -> dict[str, str]:
        """See `FamilyCommand`."""
        source = manifest.input
        return {"input": f"{source.image_size} px, mean {source.pixel_mean}, std {source.pixel_std}"}

    def measured_at(self, manifest: Manifest) -> str:
        """See `FamilyCommand`: its input has one size."""
        return ""


class OneGraphFinder:
    """The `samedge.cli.family.Finder` of a family of one graph."""

    def __init__(self, predictor: OneGraphPredictor, asked: Asked) -> None:
        self._predictor = predictor
        self._asked = asked
        self.backend, self.device = predictor.backend, predictor.device

    def find(self, image: Path) -> Results:
        """See `Finder`."""
        from samedge.runtime.one_graph import DEFAULT_CONF

        asked = self._asked
        return self._predictor.predict(
            image,
            list(asked.points) or None,
            list(asked.labels) or None,
            list(asked.boxes) or None,
            conf=DEFAULT_CONF if asked.conf is None else asked.conf,
        )

    def show(self, results: Results) -> None:
        """See `Finder`."""
        from samedge.cli.tables import print_results

        print_results(results)
