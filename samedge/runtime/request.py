"""What is asked of an image: the prompts of a caller, or everything if there are none; and the results.

Knows predictors, and nothing of where images come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

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
    """Prompts as users give them, or none for everything.

    Attributes:
        bboxes: (x1, y1, x2, y2) in px.
        points: (x, y) in px.
        labels: 1 inside, 0 outside.
        masks: Binary masks of the image's size, or low-resolution logits.
        multimask: Three masks a prompt instead of one. Where everything is segmented, always all three are looked at.
        conf: Keep masks whose predicted IoU is greater; None keeps all.
        options: How everything is segmented.
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
        """Whether there is any."""
        return any(getattr(self, name) is not None for name in PROMPT_NAMES)

    def with_prompts(self, prompts: Mapping[str, PromptLike | None]) -> Request:
        """Return the same with other prompts."""
        given = {name: prompts.get(name) for name in PROMPT_NAMES}
        return replace(
            self, bboxes=given["bboxes"], points=given["points"], labels=given["labels"], masks=given["masks"]
        )

    def check(self) -> None:
        """Find what is wrong before any work is done.

        Raises:
            UsageError: Labels without points, options for everything together with prompts, or options that mean
                nothing.
            TypeError: An option that is not known.
        """
        run_of(self.options or {})
        if not self.has_prompts:
            return
        if self.bboxes is None and self.points is None and self.masks is None:
            raise UsageError("there are labels and no points", cure="Give points, bboxes or masks")
        if self.options:
            raise UsageError(
                f"{next(iter(self.options))} is for segmenting everything, and there are prompts",
                cure="Give one or the other",
            )

    def answer(self, predictor: Predictor, bgr: ImageArray, path: str | None) -> Results:
        """Return the results for the predictor's present image.

        Args:
            predictor: With the image set.
            bgr: That image, uint8 ``(H, W, 3)``.
            path: Where it came from.
        """
        if not self.has_prompts:
            found = predictor.everything(**(self.options or {}))
            results = found.results(bgr, path=path)
            return results if self.conf is None else results[found.predicted_iou > self.conf]
        prediction = predictor.predict(self.points, self.labels, self.bboxes, self.masks, multimask=self.multimask)
        kept = prediction if self.conf is None else prediction[prediction.scores > self.conf]
        dropped = np.setdiff1d(prediction.prompt_index, kept.prompt_index)
        return Results.from_prediction(
            kept, bgr, path=path, speed=predictor.speed, dropped=tuple(int(index) for index in dropped)
        )
