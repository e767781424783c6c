"""`SAM`: checkpoints and bundles behind the interface of Ultralytics' class of the same name.

It has the same names, shapes and defaults, but is an independent implementation on samedge's runtime. A checkpoint is
exported once, into the cache; a bundle runs without torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Final, Literal, cast, overload

from typing_extensions import Unpack

from samedge.api.cached import cached_bundle
from samedge.api.keywords import SegmentKeywords, taken_out
from samedge.api.load import load
from samedge.api.model import CallableModel, check_imgsz, placed
from samedge.bundle.archive import bundle_manifest, is_bundle
from samedge.bundle.manifest import ModelRecord
from samedge.errors import UsageError, missing_extra
from samedge.export.exporter import export_model
from samedge.options import ExportFormat, ExportKeywords, ExportOptions, with_keywords
from samedge.runtime.everything.parameters import EverythingOptions
from samedge.runtime.image.read import ImageSource, as_bgr, path_of
from samedge.runtime.image.sources import Source, is_one_image, iter_sources
from samedge.runtime.image.value_range import ValueRange
from samedge.runtime.predictor import Predictor
from samedge.runtime.prompts.shapes import PromptLike
from samedge.runtime.request import Request
from samedge.runtime.results.results import Results
from samedge.types import Progress

__all__ = ["DEFAULT_CONF", "SAM", "is_bundle"]

DEFAULT_CONF: Final = 0.25


class SAM(CallableModel[Predictor]):
    """A callable Segment Anything model.

    Args:
        model: A bundle; or a checkpoint or known name such as "sam_b.pt", which is exported once, into the cache.
        backend: As for `samedge.load`.
        device: As for `samedge.load`.
        threads: As for `samedge.load`.
        force: Also load a bundle that failed its parity check.
        value_range: As for `samedge.load`.
    """

    family = "sam"

    def __init__(
        self,
        model: str | os.PathLike[str] = "sam_b.pt",
        *,
        backend: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        force: bool = False,
        value_range: ValueRange = None,
    ) -> None:
        super().__init__(os.fspath(model), "segment", device)
        self._backend = backend
        self._threads = threads
        self._force = force
        self._value_range = value_range

    @property
    def predictor(self) -> Predictor:
        """The model's predictor, opened on first use."""
        if self._predictor is None:
            bundle = Path(self.model) if is_bundle(self.model) else cached_bundle(self.model)
            self._predictor = load(
                bundle, backend=self._backend, device=self._device, threads=self._threads, force=self._force,
                value_range=self._value_range, kind="sam",
            )  # fmt: skip
        return self._predictor

    @property
    def task(self) -> str:
        """The task: "segment"."""
        return "segment"

    @property
    def names(self) -> Mapping[int, str]:
        """Class names: none, since masks are numbered by their prompts."""
        return {}

    @overload
    def predict(
        self, source: Source, bboxes: PromptLike | None = None, points: PromptLike | None = None,
        labels: PromptLike | None = None, masks: PromptLike | None = None, *, stream: Literal[False] = False,
        **keywords: Unpack[SegmentKeywords],
    ) -> list[Results]: ...  # fmt: skip

    @overload
    def predict(
        self, source: Source, bboxes: PromptLike | None = None, points: PromptLike | None = None,
        labels: PromptLike | None = None, masks: PromptLike | None = None, *, stream: Literal[True],
        **keywords: Unpack[SegmentKeywords],
    ) -> Iterator[Results]: ...  # fmt: skip

    @overload
    def predict(
        self, source: Source, bboxes: PromptLike | None = None, points: PromptLike | None = None,
        labels: PromptLike | None = None, masks: PromptLike | None = None, *, stream: bool,
        **keywords: Unpack[SegmentKeywords],
    ) -> list[Results] | Iterator[Results]: ...  # fmt: skip

    def predict(
        self,
        source: Source,
        bboxes: PromptLike | None = None,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        masks: PromptLike | None = None,
        *,
        stream: bool = False,
        **keywords: Unpack[SegmentKeywords],
    ) -> list[Results] | Iterator[Results]:
        """Segment images by prompts, the same ones in each image; without prompts, segment everything.

        Args:
            source: An image, video, folder, pattern, list, address or camera, as `samedge.runtime.image.sources` reads
                them; a BGR array, a PIL image, a torch tensor; or a list of these.
            bboxes: (x1, y1, x2, y2) in px: ``(4,)`` or ``(N, 4)``.
            points: (x, y) in px: ``(2,)``, ``(N, 2)`` for N prompts, or ``(N, P, 2)`` for N prompts of P points.
            labels: 1 inside, 0 outside: the shape of the points without the last axis; all 1 by default.
            masks: ``(H, W)`` or ``(N, H, W)``: binary masks of the image's size, or low-resolution logits.
            stream: Return a generator that segments each image on demand. Either way, the next image is read and
                encoded while the current one is decoded.
            keywords: Those of Ultralytics, see `samedge.api.keywords`, and:

                multimask_output: Return three masks per prompt. Without prompts, all three are always considered.
                conf: Drop masks unless their predicted IoU exceeds this, by default 0.25; None keeps all.
                    `Results.prompt_index` links the kept masks to their prompts, and `Results.dropped` lists the
                    prompts without masks.
                device: Move the model there first.
                save, save_txt, save_crop, show: Write images, labels and crops to ``runs/segment/predict``, or open the
                    images; see `samedge.api.output`.
                Options of segment everything, under Ultralytics' names or Meta's; see `EverythingParameters`. They drop
                masks unless their predicted IoU exceeds ``conf_thres`` (0.88), whatever `conf` is.

        Raises:
            UsageError: Labels without points, options of segment everything together with prompts, or invalid options.
            PromptError: A prompt is unusable.
            ImageError: An image cannot be read.
            TypeError: An unknown keyword argument.
        """
        used = self._in_use(keywords)
        imgsz = used.pop("imgsz", None)
        written = taken_out(used)
        stride, buffered = used.pop("vid_stride", 1), used.pop("stream_buffer", False)
        conf, multimask = used.pop("conf", DEFAULT_CONF), used.pop("multimask_output", False)
        if any(prompt is not None for prompt in (bboxes, points, masks)):
            used.pop("iou", None)  # of masks without prompts
        request = Request(bboxes, points, labels, masks, multimask, conf, cast("EverythingOptions", used))
        request.check()
        if is_one_image(source):
            found = self._segment(source, request, imgsz)
        else:
            found = self._segment_all(iter_sources(source, stride, buffered=buffered), request, imgsz)
        results = self._runs.deliver(found, written)
        return results if stream else list(results)

    __call__ = predict

    def _segment_all(self, images: Iterator[ImageSource], request: Request, imgsz: object) -> Iterator[Results]:
        try:
            first = next(images)  # reports a missing folder before a checkpoint is exported
        except StopIteration:
            return
        check_imgsz(imgsz, self.predictor.info.input.image_size)

        def decode(predictor: Predictor, image: ImageSource) -> Results:
            return placed(request.results(predictor, predictor.image, path_of(image)), image)

        # A twin, so that the loop reading the stream can call this model.
        with self.predictor.twin().stream(
            chain([first], images), lambda _, image: {"image": image}, decode=decode, queue_size=1, keep_images=True
        ) as items:
            for item in items:
                yield item.result

    def _segment(self, image: ImageSource, request: Request, imgsz: object) -> Iterator[Results]:
        bgr = as_bgr(image, self._value_range)  # before a checkpoint is exported
        check_imgsz(imgsz, self.predictor.info.input.image_size)
        self.predictor.set_image(bgr)
        yield placed(request.results(self.predictor, bgr, path_of(image)), image)

    def record(self) -> ModelRecord:
        """Return the model's record, from a bundle's manifest or from the checkpoint's weights.

        Raises:
            SamedgeError: The model cannot be read.
        """
        if self._predictor is not None:
            return self._predictor.info.model
        if is_bundle(self.model):
            return bundle_manifest(self.model).model
        try:
            from samedge.export.describe import describe_checkpoint
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torch", "export,cpu", "Reading a checkpoint") from error
        return describe_checkpoint(self.model)

    @with_keywords(ExportKeywords)
    def export(
        self,
        format: ExportFormat | None = None,
        *,
        options: ExportOptions | None = None,
        progress: Progress | None = None,
        **keywords: Unpack[ExportKeywords],
    ) -> str:
        """Export the checkpoint and return the bundle's path; the arguments are those of `samedge.export_model`.

        Raises:
            UsageError: The model is already a bundle.
            SamedgeError: As `samedge.export_model`.
        """
        if is_bundle(self.model):
            raise UsageError("the model is already a bundle", where=self.model, cure="Export from the checkpoint")
        return str(export_model(self.model, format=format, options=options, progress=progress, **keywords))
