"""`YOLO` and `FastSAM`: YOLO detectors and segmenters behind the interface of Ultralytics' classes.

They open bundles, checkpoints (exported once, into the cache), and ONNX files and engines, including those exported by
Ultralytics. Inference needs neither torch nor Ultralytics. Masks always have the size of the image, as with
Ultralytics' ``retina_masks``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias, overload

from typing_extensions import TypedDict, Unpack

from samedge.api.cached import cached_bundle
from samedge.api.load import load
from samedge.bundle.archive import GRAPH_SUFFIXES, is_bundle
from samedge.engines.registry import open_engine
from samedge.errors import ParityError, SamedgeError, UsageError, missing_extra
from samedge.export.engines.export import export_with_engines
from samedge.options import (
    ENGINE_FORMATS,
    AxisRange,
    ExportFormat,
    ExportKeywords,
    ExportOptions,
    YoloExportOptions,
    with_keywords,
)
from samedge.runtime.image.read import ImageSource
from samedge.runtime.image.sources import Source, iter_sources
from samedge.runtime.image.value_range import ValueRange
from samedge.runtime.prompts.shapes import PromptLike
from samedge.runtime.results.choose import choose
from samedge.runtime.results.results import Results
from samedge.runtime.yolo.detections import Thresholds
from samedge.runtime.yolo.fastsam import snap_to_border
from samedge.runtime.yolo.graph import PARITY, describe_yolo
from samedge.runtime.yolo.metadata import read_graph_metadata
from samedge.runtime.yolo.predictor import YoloPredictor
from samedge.types import Progress

ImageSize: TypeAlias = "int | tuple[int, int] | None"


class DetectKeywords(TypedDict, total=False):
    """Keyword arguments of `YOLO.predict`, besides `stream`."""

    conf: float
    iou: float
    imgsz: ImageSize
    max_det: int
    classes: Sequence[int] | None
    agnostic_nms: bool
    rect: bool
    retina_masks: bool
    batch: int
    half: bool
    verbose: bool


class YOLO:
    """A callable YOLO detector or segmenter.

    Args:
        model: A bundle; a checkpoint such as "yolov8n-seg.pt", which is exported once, into the cache; a graph file; or
            random weights of a known architecture, such as "seeded:yolov8n-seg".
        task: "detect" or "segment"; read from the file by default.
        backend: As for `samedge.load`.
        device: As for `samedge.load`.
        threads: As for `samedge.load`.
        force: Also run a graph that failed its parity check.
        value_range: As for `samedge.load`.

    Raises:
        UsageError: The task is unknown.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "yolov8n.pt",
        task: Literal["detect", "segment"] | None = None,
        *,
        backend: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        force: bool = False,
        value_range: ValueRange = None,
    ) -> None:
        if task not in (None, "detect", "segment"):
            raise UsageError(f"unknown task {task!r}", cure="Choose detect or segment, or leave it out")
        self.model = os.fspath(model)
        self._task = task
        self._backend = backend
        self._device = device or None
        self._threads = threads
        self._force = force
        self._value_range = value_range
        self._predictor: YoloPredictor | None = None

    @property
    def predictor(self) -> YoloPredictor:
        """The model's predictor, opened on first use.

        Raises:
            UsageError: The model's task is not the requested one.
            SamedgeError: The model cannot be opened.
        """
        if self._predictor is None:
            predictor = self._open_graph(Path(self.model)) if self._is_graph() else self._open_bundle()
            if self._task not in (None, predictor.graph.task):
                predictor.close()
                raise UsageError(
                    f"the requested task is {self._task}, but the model's task is {predictor.graph.task}",
                    where=self.model,
                    cure="Leave the task out, or choose another model",
                )
            predictor.value_range = self._value_range
            self._predictor = predictor
        return self._predictor

    def _open_bundle(self) -> YoloPredictor:
        bundle = Path(self.model) if is_bundle(self.model) else cached_bundle(self.model)
        return load(
            bundle, backend=self._backend, device=self._device, threads=self._threads, force=self._force, kind="yolo"
        )

    def _open_graph(self, path: Path) -> YoloPredictor:
        metadata = read_graph_metadata(path) if path.is_file() else {}
        if not self._force:
            _check_parity(metadata, path)
        engine = open_engine(path, backend=self._backend, device=self._device, threads=self._threads)
        try:
            return YoloPredictor(engine, describe_yolo(engine, metadata))
        except SamedgeError:
            engine.close()
            raise

    def _is_graph(self) -> bool:
        return Path(self.model).suffix.lower() in GRAPH_SUFFIXES

    @property
    def names(self) -> Mapping[int, str]:
        """Class names by number; empty if the graph has none."""
        return self.predictor.graph.names

    @property
    def task(self) -> str:
        """The model's task: "detect" or "segment"."""
        return self.predictor.graph.task

    @overload
    def predict(
        self, source: Source, *, stream: Literal[False] = False, **options: Unpack[DetectKeywords]
    ) -> list[Results]: ...

    @overload
    def predict(
        self, source: Source, *, stream: Literal[True], **options: Unpack[DetectKeywords]
    ) -> Iterator[Results]: ...

    def predict(
        self,
        source: Source,
        *,
        conf: float = 0.25,
        iou: float = 0.7,
        imgsz: ImageSize = None,
        max_det: int = 300,
        classes: Sequence[int] | None = None,
        agnostic_nms: bool = False,
        rect: bool = True,
        retina_masks: bool = False,
        batch: int = 1,
        half: bool = False,
        stream: bool = False,
        verbose: bool = False,
    ) -> list[Results] | Iterator[Results]:
        """Detect objects in images.

        Args:
            source: A path, folder, pattern, BGR array, PIL image, or a list of these.
            conf: Minimum score of a box, exclusive.
            iou: Of two boxes of one class with a greater IoU, the one with the lower score is dropped.
            imgsz: Side of the input, or (height, width), px; the model's own by default.
            max_det: Maximum number of objects per image.
            classes: Keep only these classes.
            agnostic_nms: Apply non-maximum suppression across classes.
            rect: If the graph's input size is free, reduce the padding to a multiple of the stride.
            retina_masks: Drop objects whose mask is empty at the size of the image instead of the input's. Masks always
                have the size of the image.
            batch: Number of images read at a time; those of the same input shape run through the graph together.
            half: Ignored: the precision is the one that the graph was exported in.
            stream: Return a generator that processes each batch on demand.
            verbose: Ignored: nothing is printed.

        Raises:
            UsageError: An option is invalid, or the graph does not accept the image size.
            ImageError: An image cannot be read.
        """
        thresholds = Thresholds(conf, iou, max_det, classes, agnostic_nms, retina_masks)
        if batch < 1:
            raise UsageError(f"invalid batch {batch}", cure="Give 1 or more")
        results = self._batches(iter_sources(source), thresholds, imgsz, rect, batch)
        return results if stream else list(results)

    __call__ = predict

    def _batches(
        self, images: Iterator[ImageSource], thresholds: Thresholds, imgsz: ImageSize, rect: bool, batch: int
    ) -> Iterator[Results]:
        while taken := list(islice(images, batch)):
            yield from self.predictor.predict_batch(taken, thresholds=thresholds, image_size=imgsz, rect=rect)

    @with_keywords(ExportKeywords, dynamic=False, batch=1)
    def export(
        self,
        format: ExportFormat | None = None,
        *,
        imgsz: ImageSize = None,
        options: ExportOptions | None = None,
        progress: Progress | None = None,
        **keywords: Unpack[ExportKeywords],
    ) -> str:
        """Export the checkpoint as an ONNX file, or as a bundle with a TensorRT engine, and return its path.

        For a bundle without engines, use `samedge.export_model`.

        Args:
            format: "onnx", the default, for the file; "engine", "trt" or "rtx" for a bundle with an engine beside it.
                Open both by the bundle's path.
            imgsz: Side of the input, or (height, width), px; the model's own by default.
            options: All options as one record; by default, sizes are fixed (`dynamic` is False).
            progress: Called with the progress of an engine build.
            keywords: Single options, as for `samedge.export_model`, except that `batch` is the number of images per
                call, 1 by default; with `dynamic`, an engine's maximum, while an ONNX file accepts any number. A file
                takes `output`, `opset`, `check` and the options of YOLO models.

        Raises:
            TypeError: An unknown keyword.
            UsageError: The model is already a graph, or an option is invalid or not supported.
            SamedgeError: As `export_yolo`, or `samedge.export_model` for engines.
        """
        if self._is_graph():
            raise UsageError("the model is already a graph", where=self.model, cure="Export from the checkpoint")
        chosen = options or ExportOptions(yolo=YoloExportOptions(dynamic=False))
        batch = keywords.pop("batch", None)
        chosen = chosen.updated(format, **keywords)
        if imgsz is not None:
            chosen = chosen.updated(image_size=imgsz)
        if chosen.format in ENGINE_FORMATS:
            if is_bundle(self.model):
                cure = f"Build its engine: samedge build {self.model}"
                raise UsageError("the model is already a bundle", where=self.model, cure=cure)
            if batch is None and chosen.engines.batch is None:
                batch = 1
            if isinstance(batch, int):
                batch = AxisRange(1, 1, batch) if chosen.yolo.dynamic else AxisRange(batch, batch, batch)
            if batch is not None:
                chosen = chosen.updated(batch=batch)
            return str(export_with_engines(self.model, chosen, progress)[0])
        batch = 1 if batch is None else batch
        if not isinstance(batch, int):
            raise UsageError(f"invalid batch {batch}", cure="Give one number of images for an ONNX file")
        try:
            from samedge.export.yolo.export import export_yolo
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torch", "export,cpu", "Exporting a checkpoint") from error
        return str(export_yolo(self.model, batch=None if chosen.yolo.dynamic else batch, options=chosen))

    def close(self) -> None:
        """Free the graph; the next call opens it again."""
        if self._predictor is not None:
            self._predictor.close()
            self._predictor = None


class FastSAM(YOLO):
    """FastSAM, or any YOLO segmenter, with prompts, which select among the masks of all objects."""

    def __init__(
        self,
        model: str | os.PathLike[str] = "FastSAM-s.pt",
        *,
        backend: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        force: bool = False,
        value_range: ValueRange = None,
    ) -> None:
        super().__init__(
            model, "segment", backend=backend, device=device, threads=threads, force=force, value_range=value_range
        )

    @overload
    def predict(
        self, source: Source, bboxes: PromptLike | None = None, points: PromptLike | None = None,
        labels: PromptLike | None = None, *, stream: Literal[False] = False, **options: Unpack[DetectKeywords],
    ) -> list[Results]: ...  # fmt: skip

    @overload
    def predict(
        self, source: Source, bboxes: PromptLike | None = None, points: PromptLike | None = None,
        labels: PromptLike | None = None, *, stream: Literal[True], **options: Unpack[DetectKeywords],
    ) -> Iterator[Results]: ...  # fmt: skip

    def predict(
        self,
        source: Source,
        bboxes: PromptLike | None = None,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        *,
        stream: bool = False,
        **options: Unpack[DetectKeywords],
    ) -> list[Results] | Iterator[Results]:
        """Segment images and keep the masks that the prompts select; all of them without prompts.

        Args:
            source: As for `YOLO.predict`.
            bboxes: (x1, y1, x2, y2) in px: ``(4,)`` or ``(N, 4)``; each selects the mask that overlaps it most.
            points: (x, y) in px: ``(2,)`` or ``(P, 2)``; together they select the masks that contain any of them.
            labels: ``(P,)``: 1 inside; 0 outside, which drops the masks that contain the point; all 1 by default.
            stream: As for `YOLO.predict`.
            options: As for `YOLO.predict`.

        Raises:
            PromptError: A prompt is unusable.
            UsageError: An option is invalid.
            ImageError: An image cannot be read.
            TypeError: An unknown keyword argument.
        """
        every = super().predict(source, stream=True, **options)
        results = (choose(snap_to_border(found), bboxes, points, labels) for found in every)
        return results if stream else list(results)

    __call__ = predict


def _check_parity(metadata: Mapping[str, str], path: Path) -> None:
    try:
        record = json.loads(metadata.get(PARITY, "{}"))
    except ValueError:
        record = {}
    if isinstance(record, dict) and record.get("verdict") == "failed":
        raise ParityError(
            "the graph does not reproduce the checkpoint's boxes and masks",
            where=path,
            cure="Export it again, or load it with force=True to inspect it",
            **{name: value for name, value in record.items() if name != "where"},
        )
