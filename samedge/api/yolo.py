"""`YOLO` and `FastSAM`: YOLO detectors and segmenters behind the interface of Ultralytics' classes.

They open bundles, checkpoints (exported once, into the cache), and ONNX files and engines, including those exported by
Ultralytics. Inference needs neither torch nor Ultralytics. Masks always have the size of the image, as with
Ultralytics' ``retina_masks``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, overload

from typing_extensions import Unpack

from samedge.api.cached import cached_bundle
from samedge.api.keywords import KEYWORDS, DetectKeywords, class_numbers
from samedge.api.load import load
from samedge.api.model import CallableModel, placed
from samedge.bundle.archive import GRAPH_SUFFIXES, is_bundle
from samedge.bundle.manifest import ModelRecord
from samedge.engines.registry import open_engine
from samedge.errors import ParityError, SamedgeError, UsageError, missing_extra
from samedge.export.exporter import export_with_engines
from samedge.options import (
    ENGINE_FORMATS,
    AxisRange,
    ExportFormat,
    ExportKeywords,
    ExportOptions,
    YoloExportOptions,
    unknown_keyword,
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


class YOLO(CallableModel[YoloPredictor]):
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

    Attributes:
        overrides: Keywords of every call that does not give them itself.

    Raises:
        UsageError: The task is unknown.
    """

    family = "yolo"

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
        super().__init__(os.fspath(model), task, device)
        self._task = task
        self._backend = backend
        self._threads = threads
        self._force = force
        self._value_range = value_range

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
        self, source: Source, *, stream: bool = False, **keywords: Unpack[DetectKeywords]
    ) -> list[Results] | Iterator[Results]:
        """Detect objects in images.

        Args:
            source: As for `SAM.predict`.
            stream: Return a generator that processes each batch on demand.
            keywords: Those of Ultralytics, see `samedge.api.keywords`:

                conf: Minimum score of a box, exclusive, by default 0.25.
                iou: Of two boxes of one class with a greater IoU, by default 0.7, the one with the lower score is
                    dropped.
                imgsz: Side of the input, or (height, width), px; the model's own by default.
                max_det: Maximum number of objects per image, by default 300.
                classes: Keep only these classes: a number or several.
                agnostic_nms: Apply non-maximum suppression across classes.
                rect: If the graph's input size is free, reduce the padding to a multiple of the stride; the default.
                retina_masks: Drop objects whose mask is empty at the size of the image instead of the input's. Masks
                    always have the size of the image.
                batch: Number of images read at a time, by default 1; those of the same input shape run through the
                    graph together.
                device: Move the model there first.
                save, save_txt, save_crop, show: Write images, labels and crops to ``runs/<task>/predict``, or open the
                    images; see `samedge.api.output`.
                half, verbose: Ignored: the precision is that of the export, and nothing is printed.

        Raises:
            UsageError: An option is invalid or not supported, or the graph does not accept the image size.
            ImageError: An image cannot be read.
            StorageError: What is to be saved cannot be written.
            TypeError: An unknown keyword argument.
        """
        results = self._found(source, keywords, lambda found: found)
        return results if stream else list(results)

    __call__ = predict

    def _found(
        self, source: Source, keywords: Mapping[str, Any], select: Callable[[Results], Results]
    ) -> Iterator[Results]:
        used = self._in_use(keywords)
        unknown = [name for name in used if name not in KEYWORDS]
        if unknown:
            raise unknown_keyword(unknown[0], list(KEYWORDS))
        conf = used.get("conf")
        thresholds = Thresholds(
            0.25 if conf is None else conf,
            used.get("iou", 0.7),
            used.get("max_det", 300),
            class_numbers(used.get("classes")),
            used.get("agnostic_nms", False),
            used.get("retina_masks", False),
        )
        batch, rect, imgsz = used.get("batch", 1), used.get("rect", True), used.get("imgsz")
        if batch < 1:
            raise UsageError(f"invalid batch {batch}", cure="Give 1 or more")
        if isinstance(imgsz, (list, tuple)):
            imgsz = imgsz[0] if len(imgsz) == 1 else tuple(imgsz)
        images = iter_sources(source, used.get("vid_stride", 1), buffered=used.get("stream_buffer", False))
        found = map(select, self._batches(images, thresholds, imgsz, rect, batch))
        return self._runs.deliver(found, used)

    def _batches(
        self,
        images: Iterator[ImageSource],
        thresholds: Thresholds,
        imgsz: int | tuple[int, int] | None,
        rect: bool,
        batch: int,
    ) -> Iterator[Results]:
        while taken := list(islice(images, batch)):
            found = self.predictor.predict_batch(taken, thresholds=thresholds, image_size=imgsz, rect=rect)
            yield from map(placed, found, taken)

    def record(self) -> ModelRecord:
        """Return the model's record, from the manifest of its bundle.

        Raises:
            UsageError: The model is a graph file, which has none.
        """
        manifest = self.predictor.info
        if manifest is None:
            cure = "Open the checkpoint or a bundle"
            raise UsageError("a graph file does not say how many layers it has", where=self.model, cure=cure)
        return manifest.model

    @with_keywords(ExportKeywords, dynamic=False, batch=1)
    def export(
        self,
        format: ExportFormat | None = None,
        *,
        imgsz: int | tuple[int, int] | None = None,
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
        labels: PromptLike | None = None, texts: str | Sequence[str] | None = None, *,
        stream: Literal[False] = False, **options: Unpack[DetectKeywords],
    ) -> list[Results]: ...  # fmt: skip

    @overload
    def predict(
        self, source: Source, bboxes: PromptLike | None = None, points: PromptLike | None = None,
        labels: PromptLike | None = None, texts: str | Sequence[str] | None = None, *,
        stream: Literal[True], **options: Unpack[DetectKeywords],
    ) -> Iterator[Results]: ...  # fmt: skip

    def predict(
        self,
        source: Source,
        bboxes: PromptLike | None = None,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        texts: str | Sequence[str] | None = None,
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
            texts: Refused: text prompts need CLIP.
            stream: As for `YOLO.predict`.
            options: As for `YOLO.predict`.

        Raises:
            PromptError: A prompt is unusable.
            UsageError: An option is invalid.
            ImageError: An image cannot be read.
            TypeError: An unknown keyword argument.
        """
        if texts is not None:
            raise UsageError(
                "text prompts need CLIP, which samedge does not run",
                where="texts",
                cure="Give bboxes or points; a YOLO detector finds boxes by class",
            )
        results = self._found(source, options, lambda found: choose(snap_to_border(found), bboxes, points, labels))
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
