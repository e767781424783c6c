"""The part of single-graph families in ``samedge predict`` and ``info``: prompts select among all objects found."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final, cast

from samedge.cli.family import Finder, OpenOptions, PredictRequest, input_row

if TYPE_CHECKING:
    from samedge.bundle.manifest import Manifest
    from samedge.runtime.image.read import ImageSource
    from samedge.runtime.one_graph import OneGraphPredictor
    from samedge.runtime.results.results import Results

_FOREIGN: Final = (
    "masks",
    "each_point",
    "multimask",
    "everything",
    "iou",
    "max_det",
    "agnostic_nms",
    "imgsz",
    "classes",
)


class OneGraphCommand:
    """`FamilyCommand` of families of a single graph."""

    def open(self, model: str, request: PredictRequest, options: OpenOptions) -> Finder:
        """Open a bundle of a single graph."""
        from samedge.api.load import load
        from samedge.bundle.archive import bundle_manifest
        from samedge.cli.tables import print_results
        from samedge.options import refuse_foreign
        from samedge.runtime.one_graph import DEFAULT_CONF

        refuse_foreign(bundle_manifest(model).model_family.title, request.given(*_FOREIGN))
        predictor = cast("OneGraphPredictor", load(model, **asdict(options)))
        conf = DEFAULT_CONF if request.conf is None else request.conf
        points, labels, boxes = list(request.points), list(request.labels), list(request.boxes)

        def find(image: ImageSource) -> Results:
            return predictor.predict(image, points or None, labels or None, boxes or None, conf=conf)

        return Finder(predictor.backend, predictor.device, find, print_results)

    def rows(self, manifest: Manifest) -> dict[str, str]:
        """Return the input."""
        return {"input": input_row(manifest)}

    def measured_at(self, manifest: Manifest) -> str:
        """Return nothing: the input has one size."""
        return ""
