"""The API that people's fingers know: `SAM` and `SAMPredictor`, on checkpoints and bundles alike.

Names, shapes and defaults are those of Ultralytics' classes of the same names, written anew on this project's own
runtime. A checkpoint is exported once into the cache; a bundle runs without torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, overload

import numpy as np

from samedge.errors import UsageError
from samedge.export.cached import cached_bundle, import_exporter
from samedge.runtime.bundle import ARCHIVE_SUFFIX, bundle_manifest
from samedge.runtime.image import ImageSource, as_bgr
from samedge.runtime.load import load
from samedge.runtime.manifest import MANIFEST_NAME, ModelRecord
from samedge.runtime.predictor import Predictor
from samedge.runtime.prompt_shapes import PromptLike
from samedge.runtime.results import Results
from samedge.runtime.sources import Source, iter_sources
from samedge.types import BoolArray, FloatArray, ImageArray, IOScheme, Precision

DEFAULT_CONF: Final = 0.25


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a bundle (a folder, a manifest or a ``.samedge`` file) and not a checkpoint."""
    path = Path(path)
    return path.is_dir() or path.suffix == ARCHIVE_SUFFIX or path.name == MANIFEST_NAME


def _path_of(image: ImageSource) -> str | None:
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Prompts:
    """The four kinds of prompt, as users give them."""

    bboxes: PromptLike | None = None
    points: PromptLike | None = None
    labels: PromptLike | None = None
    masks: PromptLike | None = None

    @property
    def given(self) -> bool:
        return any(prompt is not None for prompt in (self.bboxes, self.points, self.labels, self.masks))

    def check(self) -> None:
        if self.bboxes is None and self.points is None and self.masks is None:
            raise UsageError(
                "there is no prompt" if self.labels is None else "there are labels and no points",
                cure="Give points, bboxes or masks; segmenting everything is not supported yet",
            )

    def segment(
        self, predictor: Predictor, bgr: ImageArray, path: str | None, *, multimask: bool, conf: float | None
    ) -> Results:
        """Answers the prompts on the image that is set."""
        prediction = predictor.predict(self.points, self.labels, self.bboxes, self.masks, multimask=multimask)
        kept = prediction if conf is None else prediction[prediction.scores > conf]
        dropped = np.setdiff1d(prediction.prompt_index, kept.prompt_index)
        return Results.from_prediction(
            kept, bgr, path=path, speed=predictor.speed, dropped=tuple(int(index) for index in dropped)
        )


class SAM:
    """A Segment Anything model that can be called.

    Args:
        model: A bundle; or a checkpoint or known name such as "sam_b.pt", which is exported once into the cache.
        backend: As for `samedge.load`.
        device: As for `samedge.load`.
        threads: As for `samedge.load`.
        force: Load a bundle whose parity verdict is "failed" as well.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "sam_b.pt",
        *,
        backend: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        force: bool = False,
    ) -> None:
        self.model = os.fspath(model)
        self._backend = backend
        self._device = device or None  # the known default is an empty string
        self._threads = threads
        self._force = force
        self._predictor: Predictor | None = None

    @property
    def predictor(self) -> Predictor:
        """The predictor behind this model; opened at the first use."""
        if self._predictor is None:
            bundle = Path(self.model) if is_bundle(self.model) else cached_bundle(self.model)
            self._predictor = load(
                bundle, backend=self._backend, device=self._device, threads=self._threads, force=self._force
            )
        return self._predictor

    @overload
    def predict(
        self,
        source: Source,
        bboxes: PromptLike | None = None,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        masks: PromptLike | None = None,
        *,
        multimask_output: bool = False,
        conf: float | None = DEFAULT_CONF,
        stream: Literal[False] = False,
    ) -> list[Results]: ...

    @overload
    def predict(
        self,
        source: Source,
        bboxes: PromptLike | None = None,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        masks: PromptLike | None = None,
        *,
        multimask_output: bool = False,
        conf: float | None = DEFAULT_CONF,
        stream: Literal[True],
    ) -> Iterator[Results]: ...

    @overload
    def predict(
        self,
        source: Source,
        bboxes: PromptLike | None = None,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        masks: PromptLike | None = None,
        *,
        multimask_output: bool = False,
        conf: float | None = DEFAULT_CONF,
        stream: bool,
    ) -> list[Results] | Iterator[Results]: ...

    def predict(
        self,
        source: Source,
        bboxes: PromptLike | None = None,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        masks: PromptLike | None = None,
        *,
        multimask_output: bool = False,
        conf: float | None = DEFAULT_CONF,
        stream: bool = False,
    ) -> list[Results] | Iterator[Results]:
        """Segments images by prompts, the same prompts for each.

        Args:
            source: A path, folder, pattern, BGR array, PIL image, or a list of these.
            bboxes: (x1, y1, x2, y2) in px: ``(4,)`` or ``(N, 4)``.
            points: (x, y) in px: ``(2,)``, ``(N, 2)`` for N prompts, or ``(N, P, 2)`` for N prompts of P points.
            labels: 1 inside, 0 outside, in the shape of the points without the last axis; all 1 if left out.
            masks: ``(H, W)`` or ``(N, H, W)``, binary masks of the image's size or low-resolution logits.
            multimask_output: Three masks a prompt instead of one.
            conf: Keep masks whose predicted IoU is greater; None keeps all. `Results.prompt_index` says which prompts
                the kept ones answer, `Results.dropped` which prompts were dropped.
            stream: Return a generator that segments one image after the other as it is read from.

        Raises:
            UsageError: There is no prompt.
            PromptError: A prompt cannot be used.
            ImageError: An image cannot be read.
        """
        prompts = _Prompts(bboxes, points, labels, masks)
        prompts.check()
        results = (self._segment(image, prompts, multimask_output, conf) for image in iter_sources(source))
        return results if stream else list(results)

    __call__ = predict

    def _segment(self, image: ImageSource, prompts: _Prompts, multimask: bool, conf: float | None) -> Results:
        bgr = as_bgr(image)
        self.predictor.set_image(bgr)
        return prompts.segment(self.predictor, bgr, _path_of(image), multimask=multimask, conf=conf)

    def record(self) -> ModelRecord:
        """Returns what the model is: from a bundle's manifest, or from the checkpoint's weights.

        Raises:
            SamedgeError: It cannot be read.
        """
        if self._predictor is not None:
            return self._predictor.info.model
        if is_bundle(self.model):
            return bundle_manifest(self.model).model
        import_exporter()
        from samedge.export.describe import describe_checkpoint

        return describe_checkpoint(self.model)

    def info(self, detailed: bool = False, verbose: bool = True) -> tuple[int, int, int, float]:
        """Returns (layers, parameters, gradients, GFLOPs of the encoder); gradients are always 0 here.

        Args:
            detailed: Write licence, checkpoint and the decoder's GFLOPs as well.
            verbose: Write one line about the model to stdout.
        """
        record = self.record()
        if verbose:
            line = (
                f"{record.name} summary: {record.layers:,} layers, {record.parameters:,} parameters, 0 gradients, "
                f"{record.encoder_gflops:.1f} GFLOPs"
            )
            if detailed:
                line += (
                    f"\ndecoder: {record.decoder_gflops:.2f} GFLOPs a prompt\nlicence: {record.licence}"
                    f"\ncheckpoint: {record.checkpoint} (SHA-256 {record.checkpoint_sha256})"
                )
            sys.stdout.write(line + "\n")
        return record.layers, record.parameters, 0, record.encoder_gflops

    def export(
        self,
        format: Literal["onnx"] = "onnx",
        *,
        precision: Precision = "fp32",
        io: IOScheme = "native",
        opset: int = 17,
        output: str | Path | None = None,
        image_size: int | None = None,
        check: bool = True,
    ) -> str:
        """Exports the checkpoint as `samedge.export_model` does, and returns the bundle's path.

        Raises:
            UsageError: The model is a bundle already.
            SamedgeError: As `samedge.export_model`.
        """
        if is_bundle(self.model):
            raise UsageError("this is a bundle already", where=self.model, cure="Export from the checkpoint")
        export = import_exporter()
        return str(
            export(
                self.model,
                format=format,
                precision=precision,
                io=io,
                opset=opset,
                output=output,
                image_size=image_size,
                check=check,
            )
        )

    def close(self) -> None:
        """Frees the graphs. The model can be called again; it is then opened anew."""
        if self._predictor is not None:
            self._predictor.close()
            self._predictor = None


class SAMPredictor:
    """Segments one image by many calls: the image is encoded once.

    Args:
        overrides: ``model`` (as for `SAM`), ``conf`` (0.25), ``device``, ``backend``, ``threads``, ``imgsz`` (must be
            the model's). ``task``, ``mode``, ``save``, ``verbose`` and ``retina_masks`` are accepted and change
            nothing.

    Raises:
        UsageError: An override that is not known.
    """

    _KNOWN: Final = ("model", "conf", "device", "backend", "threads", "imgsz")
    _IGNORED: Final = ("task", "mode", "save", "verbose", "retina_masks")

    def __init__(self, overrides: Mapping[str, object] | None = None) -> None:
        given = dict(overrides or {})
        unknown = [name for name in given if name not in (*self._KNOWN, *self._IGNORED)]
        if unknown:
            raise UsageError(
                f"there is no override {unknown[0]!r}", cure=f"Known: {', '.join((*self._KNOWN, *self._IGNORED))}"
            )
        conf, threads, device = given.get("conf", DEFAULT_CONF), given.get("threads"), given.get("device")
        if conf is not None and not isinstance(conf, (int, float)):
            raise UsageError(f"conf is {conf!r}", cure="Give a number between 0 and 1, or None")
        if threads is not None and not isinstance(threads, int):
            raise UsageError(f"threads is {threads!r}", cure="Give a whole number")
        self.conf = conf
        self._imgsz = given.get("imgsz")
        self._sam = SAM(
            str(given.get("model", "sam_b.pt")),
            backend=str(given.get("backend", "auto")),
            device=None if device is None else str(device),
            threads=threads,
        )
        self._image: tuple[ImageArray, str | None] | None = None
        self._prompts = _Prompts()

    @property
    def model(self) -> Predictor:
        """The predictor behind; opened at the first use."""
        predictor = self._sam.predictor
        size = predictor.info.input.image_size
        if self._imgsz not in (None, size, (size, size), [size, size]):
            raise UsageError(
                f"imgsz is {self._imgsz}, and this model's input is {size}", cure=f"Leave it out, or give {size}"
            )
        return predictor

    @property
    def features(self) -> FloatArray:
        """The image's embedding, float32 ``[1, C, g, g]``.

        Raises:
            UsageError: No image is set.
        """
        return self.model.image_embedding

    def set_image(self, image: ImageSource) -> None:
        """Encodes an image: a path, a BGR array or a PIL image.

        Raises:
            ImageError: It cannot be read.
        """
        self.reset_image()
        bgr = as_bgr(image)
        self.model.set_image(bgr)
        self._image = (bgr, _path_of(image))

    def reset_image(self) -> None:
        """Forgets the image."""
        self._image = None
        self.model.reset_image()

    def set_prompts(self, prompts: Mapping[str, PromptLike | None]) -> None:
        """Sets prompts (``bboxes``, ``points``, ``labels``, ``masks``) for calls that give none.

        Raises:
            UsageError: A name that is not known.
        """
        unknown = [name for name in prompts if name not in ("bboxes", "points", "labels", "masks")]
        if unknown:
            raise UsageError(f"there is no prompt {unknown[0]!r}", cure="Known: bboxes, points, labels, masks")
        self._prompts = _Prompts(**prompts)

    def __call__(
        self,
        source: Source | None = None,
        bboxes: PromptLike | None = None,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        masks: PromptLike | None = None,
        *,
        multimask_output: bool = False,
    ) -> list[Results]:
        """Segments by prompts: the image that is set, or the source if one is given.

        Raises:
            UsageError: There is neither an image nor a source, or no prompt.
            PromptError: A prompt cannot be used.
        """
        prompts = _Prompts(bboxes, points, labels, masks)
        if not prompts.given:
            prompts = self._prompts
        prompts.check()
        if source is not None:
            results = []
            for image in iter_sources(source):
                self.set_image(image)
                results.append(self._answer(prompts, multimask_output))
            return results
        return [self._answer(prompts, multimask_output)]

    def _answer(self, prompts: _Prompts, multimask: bool) -> Results:
        if self._image is None:
            raise UsageError("no image is set", cure="Call set_image first, or give source=")
        bgr, path = self._image
        return prompts.segment(self.model, bgr, path, multimask=multimask, conf=self.conf)

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
        """Segments by prompts on an embedding from before.

        Args:
            features: `features` of this model, float32 ``[1, C, g, g]``.
            src_shape: (height, width) of the image in px; prompts are in its pixels.
            dst_shape: (height, width) of the masks; that of the image if left out.
            bboxes: As in `SAM.predict`.
            points: As in `SAM.predict`.
            labels: As in `SAM.predict`.
            masks: As in `SAM.predict`.
            multimask_output: Three masks a prompt.

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
