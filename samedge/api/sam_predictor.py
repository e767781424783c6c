"""`SAMPredictor`: many calls on one image, behind the interface of Ultralytics' class of the same name.

It has the same names, shapes and defaults, but is an independent implementation on samedge's runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from typing_extensions import Unpack

from samedge.api.keywords import KEYWORDS, OUTPUT, device_name, keywords_in_use
from samedge.api.model import check_imgsz, placed
from samedge.api.output import Runs
from samedge.api.sam import DEFAULT_CONF, SAM
from samedge.errors import UsageError
from samedge.runtime.everything.parameters import EverythingOptions
from samedge.runtime.image.read import ImageSource, as_bgr, path_of
from samedge.runtime.image.sources import Source, iter_sources
from samedge.runtime.predictor import Predictor
from samedge.runtime.prompts.shapes import PromptLike
from samedge.runtime.request import PROMPT_NAMES, Request
from samedge.runtime.results.results import Results
from samedge.types import BoolArray, FloatArray, ImageArray


class SAMPredictor:
    """A segmenter that encodes an image once and answers many calls.

    Args:
        overrides: ``model`` (as for `SAM`), ``backend``, ``threads``, and the keywords of `SAM.predict`, of which
            ``imgsz`` must be the model's; see `samedge.api.keywords`.

    Attributes:
        overrides: The given ones.

    Raises:
        UsageError: An override is unknown or invalid.
    """

    _KNOWN: Final = ("model", "conf", "device", "backend", "threads", "imgsz")

    def __init__(self, overrides: Mapping[str, object] | None = None) -> None:
        given: dict[str, Any] = dict(overrides or {})
        known = [*self._KNOWN, *(name for name in KEYWORDS if name not in self._KNOWN)]
        unknown = [name for name in given if name not in known]
        if unknown:
            raise UsageError(f"unknown override {unknown[0]!r}", cure=f"Choose one of: {', '.join(known)}")
        self.overrides = dict(given)
        conf, threads, device = given.get("conf", DEFAULT_CONF), given.get("threads"), given.get("device")
        if conf is not None and not isinstance(conf, (int, float)):
            raise UsageError(f"invalid conf {conf!r}", cure="Give a number between 0 and 1, or None")
        if threads is not None and not isinstance(threads, int):
            raise UsageError(f"invalid threads {threads!r}", cure="Give a whole number")
        self.conf = conf
        self._imgsz = given.get("imgsz")
        self._keywords = keywords_in_use(given, "sam", "segment")
        self._runs = Runs(lambda: "segment")
        self._sam = SAM(
            str(given.get("model", "sam_b.pt")),
            backend=str(given.get("backend", "auto")),
            device=device_name(device),
            threads=threads,
        )
        self._image: tuple[ImageArray, str | None] | None = None
        self._prompts: dict[str, PromptLike | None] = {}

    @property
    def model(self) -> Predictor:
        """The predictor, opened on first use.

        Raises:
            UsageError: ``imgsz`` is not the size of the model's input.
            SamedgeError: As `samedge.load`.
        """
        predictor = self._sam.predictor
        check_imgsz(self._imgsz, predictor.info.input.image_size)
        return predictor

    @property
    def features(self) -> FloatArray:
        """The image's embedding, float32 ``[1, C, g, g]``.

        Raises:
            UsageError: No image is set.
        """
        return self.model.image_embedding

    def set_image(self, image: ImageSource) -> None:
        """Encode an image: a path, a BGR array or a PIL image.

        Raises:
            ImageError: The image cannot be read.
        """
        self.reset_image()
        bgr = as_bgr(image, self.model.value_range)
        self.model.set_image(bgr)
        self._image = (bgr, path_of(image))

    def reset_image(self) -> None:
        """Forget the image."""
        self._image = None
        self.model.reset_image()

    def set_prompts(self, prompts: Mapping[str, PromptLike | None]) -> None:
        """Set the prompts (``bboxes``, ``points``, ``labels``, ``masks``) of calls without any.

        Raises:
            UsageError: A name is unknown.
        """
        unknown = [name for name in prompts if name not in PROMPT_NAMES]
        if unknown:
            raise UsageError(f"unknown prompt {unknown[0]!r}", cure=f"Choose one of: {', '.join(PROMPT_NAMES)}")
        self._prompts = dict(prompts)

    def __call__(
        self,
        source: Source | None = None,
        bboxes: PromptLike | None = None,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        masks: PromptLike | None = None,
        *,
        multimask_output: bool = False,
        **options: Unpack[EverythingOptions],
    ) -> list[Results]:
        """Segment the current image, or the given source, by prompts; without prompts, segment everything.

        Args:
            source: As in `SAM.predict`; its last image becomes the current one.
            bboxes: As in `SAM.predict`.
            points: As in `SAM.predict`.
            labels: As in `SAM.predict`.
            masks: As in `SAM.predict`.
            multimask_output: Return three masks per prompt.
            options: Options of segment everything, as in `SAM.predict`.

        Raises:
            UsageError: There is neither an image nor a source, or prompts and options cannot be combined.
            PromptError: A prompt is unusable.
        """
        request = Request(bboxes, points, labels, masks, multimask_output, self.conf, options)
        if not request.has_prompts and not options:
            request = request.with_prompts(self._prompts)
        if not request.has_prompts and "iou" in self._keywords and "iou" not in options:
            own: EverythingOptions = {"iou": self._keywords["iou"]}
            request = replace(request, options=own | options)
        request.check()
        results = self._segment_all(source, request)
        return list(
            self._runs.deliver(results, {name: self._keywords[name] for name in OUTPUT if name in self._keywords})
        )

    def _segment_all(self, source: Source | None, request: Request) -> Iterator[Results]:
        if source is None:
            yield self._segment(request)
            return
        stride, buffered = self._keywords.get("vid_stride", 1), self._keywords.get("stream_buffer", False)
        for image in iter_sources(source, stride, buffered=buffered):
            self.set_image(image)
            yield placed(self._segment(request), image)

    def _segment(self, request: Request) -> Results:
        if self._image is None:
            raise UsageError("no image is set", cure="Call set_image first, or give source=")
        bgr, path = self._image
        return request.results(self.model, bgr, path)

    def inference_features(
        self,
        features: FloatArray,
        src_shape: tuple[int, int],
        dst_shape: tuple[int, int] | None = None,
        bboxes: PromptLike | None = None,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        masks: PromptLike | None = None,
        multimask_output: bool = False,
    ) -> tuple[BoolArray, FloatArray]:
        """Segment a stored embedding by prompts.

        Args:
            features: `features` of this model, float32 ``[1, C, g, g]``.
            src_shape: (height, width) of the image, px, in whose coordinates prompts are given.
            dst_shape: (height, width) of the masks; the image's by default.
            bboxes: As in `SAM.predict`.
            points: As in `SAM.predict`.
            labels: As in `SAM.predict`.
            masks: As in `SAM.predict`.
            multimask_output: Return three masks per prompt.

        Returns:
            Masks bool ``[N, H, W]``, and float32 ``[N, 6]``: x1, y1, x2, y2, predicted IoU, prompt index.
        """
        predictor = self.model
        predictor.set_embedding(features, *src_shape)
        self._image = None
        prediction = predictor.predict(points, labels, bboxes, masks, multimask=multimask_output, conf=self.conf)
        if dst_shape is not None and tuple(dst_shape) != tuple(src_shape):
            prediction = prediction.resized(*dst_shape)
        index = prediction.prompt_index.astype(np.float32)
        boxes = np.column_stack([prediction.boxes, prediction.scores, index]).astype(np.float32)
        return prediction.masks, boxes
