"""SAM's part of ``samedge predict`` and ``info``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from samedge.cli.family import Finder, OpenOptions, PredictRequest, input_row

if TYPE_CHECKING:
    from samedge.bundle.manifest import Manifest
    from samedge.runtime.image.read import ImageSource
    from samedge.runtime.results.results import Results


class SamCommand:
    """`FamilyCommand` of SAM."""

    def open(self, model: str, request: PredictRequest, options: OpenOptions) -> Finder:
        """Open a bundle of SAM."""
        from samedge.api.sam import SAM
        from samedge.cli.prompt_options import shown_search
        from samedge.cli.tables import print_results
        from samedge.options import refuse_foreign

        refuse_foreign("a SAM", request.given("iou", "max_det", "agnostic_nms", "imgsz", "classes"))
        sam = SAM(model, **asdict(options))

        def find(image: ImageSource) -> Results:
            if request.prompts:
                found = sam.predict(image, **request.prompts, multimask_output=request.multimask, conf=request.conf)
            else:
                with shown_search(request.everything or {}) as search:
                    found = sam.predict(image, conf=request.conf, **search)
            return cast("Results", found[0])

        return Finder(sam.predictor.backend, sam.predictor.device, find, print_results)

    def rows(self, manifest: Manifest) -> dict[str, str]:
        """Return the input and the I/O scheme."""
        return {"input": input_row(manifest), "I/O scheme": manifest.io}

    def measured_at(self, manifest: Manifest) -> str:
        """Return nothing: the input has one size."""
        return ""
