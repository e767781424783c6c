"""A caller's request for one image: prompts, or everything without them; and its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from samedge.errors import UsageError
from samedge.runtime.everything.parameters import EverythingOptions, run_of
from samedge.runtime.predictor import Predictor
from samedge.runtime.prompts.shapes import PromptLike
from samedge.runtime.results.results import Results
from samedge.types import ImageArray

PROMPT_NAMES: Final = ("bboxes", "points", "labels", "masks")


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Prompts as `Predictor.predict` takes them, or none for everything, with its options.

    Without prompts, all three masks of each point are considered, whatever `multimask` is.
    """

    bboxes: PromptLike | None = None
    points: PromptLike | None = None
    labels: PromptLike | None = None
    masks: PromptLike | None = None
    multimask: bool = False
    conf: float | None = None
    options: EverythingOptions | None = None

    @property
    def has_prompts(self) -> bool:
        """True if there are prompts."""
        return any(getattr(self, name) is not None for name in PROMPT_NAMES)

    def with_prompts(self, prompts: Mapping[str, PromptLike | None]) -> Request:
        """Return the request with other prompts."""
        given: dict[str, Any] = {name: prompts.get(name) for name in PROMPT_NAMES}
        return replace(self, **given)

    def check(self) -> None:
        """Check the request before any work is done.

        Raises:
            UsageError: Labels without points, options of segment everything together with prompts, or invalid options.
            TypeError: An option is unknown.
        """
        run_of(self.options or {})
        if not self.has_prompts:
            return
        if self.bboxes is None and self.points is None and self.masks is None:
            raise UsageError("labels were given without points", cure="Give points, bboxes or masks")
        if self.options:
            raise UsageError(
                f"{next(iter(self.options))} is an option of segment everything, but prompts were given",
                cure="Give one or the other",
            )

    def results(self, predictor: Predictor, bgr: ImageArray, path: str | None) -> Results:
        """Return the results for the predictor's current image, which is `bgr`, uint8 ``(H, W, 3)``."""
        if not self.has_prompts:
            found = predictor.everything(**(self.options or {}))
            results = found.results(bgr, path=path)
            return results if self.conf is None else results[found.predicted_iou > self.conf]
        prediction = predictor.predict(self.points, self.labels, self.bboxes, self.masks, multimask=self.multimask)
        kept = prediction if self.conf is None else prediction[prediction.scores > self.conf]
        dropped = np.setdiff1d(prediction.prompt_index, kept.prompt_index)
        return Results.from_prediction(kept, bgr, path=path, speed=predictor.speed, dropped=dropped.tolist())
