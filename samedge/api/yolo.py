"""`YOLO` and `FastSAM`: YOLOv8 detectors and segmenters and FastSAM, called as Ultralytics' users call them.

They open bundles, checkpoints (exported once into the cache), and ONNX files and engines, also those that Ultralytics
exported. Running needs neither torch nor Ultralytics. Masks always have the size of the image, which Ultralytics calls
``retina_masks``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Literal, TypeAlias, overload

from typing_extensions import Unpack

from samedge.api.cached import cached_bundle
from samedge.api.load import load
from samedge.bundle.archive import is_bundle
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
from samedge.runtime.prompts.shapes import PromptLike
from samedge.runtime.results.results import Results
from samedge.runtime.yolo.detections import Thresholds
from samedge.runtime.yolo.fastsam import choose, snap_to_border
from samedge.runtime.yolo.graph import PARITY, describe_yolo
from samedge.runtime.yolo.metadata import read_graph_metadata
from samedge.runtime.yolo.predictor import YoloPredictor
from samedge.types import Progress

GRAPH_SUFFIXES: Final = (".onnx", ".engine", ".plan", ".xml")

ImageSize: TypeAlias = "int | tuple[int, int] | None"


class YOLO:
    """A YOLOv8 detector or segmenter that can be called.

    Args:
        model: A bundle; a checkpoint such as "yolov8n-seg.pt", which is exported once into the cache; a graph file; or
            "seeded:yolov8n-seg" and the like, random weights of the true architecture.
        task: "detect" or "segment"; the file tells it, so that it need not be given.
        backend: As for `samedge.load`.
        device: As for `samedge.load`.
        threads: As for `samedge.load`.
        force: Run a graph whose parity verdict is "failed" as well.

    Raises:
        UsageError: `task` is another.
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
    ) -> None:
        if task not in (None, "detect", "segment"):
            raise UsageError(f"there is no task {task!r} here", cure="Choose detect or segment, or leave it out")
        self.model = os.fspath(model)
        self._task = task
        self._backend = backend
        self._device = device or None
        self._threads = threads
        self._force = force
        self._predictor: YoloPredictor | None = None

    @property
    def predictor(self) -> YoloPredictor:
        """The predictor behind this model; opened at the first use."""
        if self._predictor is None:
            predictor = self._open_graph(Path(self.model)) if self._is_graph() else self._open_bundle()
            if self._task not in (None, predictor.graph.task):
                predictor.close()
                raise UsageError(
                    f"the task is {self._task}, and this model does {predictor.graph.task}",
                    where=self.model,
                    cure="Leave the task out, or choose another model",
                )
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
        """Name of the classes by number; empty where the graph does not tell them."""
        return self.predictor.graph.names

    @property
    def task(self) -> str:
        """Task of the model: "detect" or "segment"."""
        return self.predictor.graph.task

    @overload
    def predict(
        self, source: Source, *, conf: float = 0.25, iou: float = 0.7, imgsz: ImageSize = None, max_det: int = 300,
        classes: Sequence[int] | None = None, agnostic_nms: bool = False, rect: bool = True, retina_masks: bool = True,
        batch: int = 1, half: bool = False, stream: Literal[False] = False, verbose: bool = False,
    ) -> list[Results]: ...  # fmt: skip

    @overload
    def predict(
        self, source: Source, *, conf: float = 0.25, iou: float = 0.7, imgsz: ImageSize = None, max_det: int = 300,
        classes: Sequence[int] | None = None, agnostic_nms: bool = False, rect: bool = True, retina_masks: bool = True,
        batch: int = 1, half: bool = False, stream: Literal[True], verbose: bool = False,
    ) -> Iterator[Results]: ...  # fmt: skip

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
        retina_masks: bool = True,
        batch: int = 1,
        half: bool = False,
        stream: bool = False,
        verbose: bool = False,
    ) -> list[Results] | Iterator[Results]:
        """Find objects in images.

        Args:
            source: A path, folder, pattern, BGR array, PIL image, or a list of these.
            conf: Keep boxes that score more.
            iou: Of two boxes of one class that overlap by more, the one that scores less is dropped.
            imgsz: Side of the input, or (height, width), px; the model's own if left out.
            max_det: At most so many objects an image.
            classes: Only these classes.
            agnostic_nms: Boxes of different classes suppress each other too.
            rect: Where the graph's input size is free, cut the padding down to what the stride needs.
            retina_masks: Accepted for its name: masks have the size of the image in any case.
            batch: Images that are read at once; those whose inputs have one shape go through the graph together.
            half: Accepted for its name: the graph computes in the precision that it was exported in.
            stream: Return a generator that works on one batch after the other as it is read from.
            verbose: Accepted for its name: nothing is printed in any case.

        Raises:
            UsageError: An option that means nothing, or a graph that takes no such image size.
            ImageError: An image cannot be read.
        """
        thresholds = Thresholds(conf, iou, max_det, classes, agnostic_nms)
        results = self._find(source, thresholds, imgsz, rect, batch)
        return results if stream else list(results)

    __call__ = predict

    def _find(
        self, source: Source, thresholds: Thresholds, imgsz: ImageSize, rect: bool, batch: int
    ) -> Iterator[Results]:
        if batch < 1:
            raise UsageError(f"batch is {batch}", cure="Give 1 or more")
        return self._batches(iter_sources(source), thresholds, imgsz, rect, batch)

    def _batches(
        self, images: Iterator[ImageSource], thresholds: Thresholds, imgsz: ImageSize, rect: bool, batch: int
    ) -> Iterator[Results]:
        while together := list(islice(images, batch)):
            yield from self.predictor.predict_batch(together, thresholds=thresholds, image_size=imgsz, rect=rect)

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

        `samedge.export_model` makes bundles of graphs alone.

        Args:
            format: "onnx", the default, for the file; "engine", "trt" or "rtx" for a bundle whose engine lies beside
                it, which is opened by the bundle's path.
            imgsz: Side of the input, or (height, width), px; the model's own if left out.
            options: A record of options, where they are kept. If it is left out, sizes are fixed (`dynamic` is False).
            progress: Called as the work on an engine goes on.
            keywords: Single options, as for `samedge.export_model`, but: `batch` is the number of images that are taken
                at once, 1 by default; with `dynamic`, at most (an ONNX file takes any number then). For a file,
                `output`, `opset`, `check` and the options of YOLOs.

        Raises:
            TypeError: A keyword that is not known.
            UsageError: The model is a graph already, or an option means nothing.
            SamedgeError: As `export_yolo`, or `samedge.export_model` for engines.
        """
        if self._is_graph():
            raise UsageError("this is a graph already", where=self.model, cure="Export from the checkpoint")
        asked = options or ExportOptions(yolo=YoloExportOptions(dynamic=False))
        batch = keywords.pop("batch", None)
        asked = asked.updated(format, **keywords)
        if imgsz is not None:
            asked = asked.updated(image_size=imgsz)
        if asked.format in ENGINE_FORMATS:
            if is_bundle(self.model):
                raise UsageError(
                    "this is a bundle already", where=self.model, cure=f"Build its engine: samedge build {self.model}"
                )
            if batch is None and asked.engines.batch is None:
                batch = 1
            if isinstance(batch, int):
                batch = AxisRange(1, 1, batch) if asked.yolo.dynamic else AxisRange(batch, batch, batch)
            if batch is not None:
                asked = asked.updated(batch=batch)
            return str(export_with_engines(self.model, asked, progress)[0])
        batch = 1 if batch is None else batch
        if not isinstance(batch, int):
            raise UsageError(f"batch is {batch}", cure="Give one number of images for an ONNX file")
        try:
            from samedge.export.yolo.export import export_yolo
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torch", "export,cpu", "Exporting a checkpoint") from error
        return str(export_yolo(self.model, batch=None if asked.yolo.dynamic else batch, options=asked))

    def close(self) -> None:
        """Free the graph. The model can be called again; it is then opened anew."""
        if self._predictor is not None:
            self._predictor.close()
            self._predictor = None


class FastSAM(YOLO):
    """FastSAM, or any YOLOv8 segmenter, with prompts: everything is segmented, then prompts choose among the masks."""

    def __init__(
        self,
        model: str | os.PathLike[str] = "FastSAM-s.pt",
        *,
        backend: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        force: bool = False,
    ) -> None:
        super().__init__(model, "segment", backend=backend, device=device, threads=threads, force=force)

    @overload
    def predict(
        self, source: Source, bboxes: PromptLike | None = None, points: PromptLike | None = None,
        labels: PromptLike | None = None, *, conf: float = 0.25, iou: float = 0.7, imgsz: ImageSize = None,
        max_det: int = 300, classes: Sequence[int] | None = None, agnostic_nms: bool = False, rect: bool = True,
        retina_masks: bool = True, batch: int = 1, half: bool = False, stream: Literal[False] = False,
        verbose: bool = False,
    ) -> list[Results]: ...  # fmt: skip

    @overload
    def predict(
        self, source: Source, bboxes: PromptLike | None = None, points: PromptLike | None = None,
        labels: PromptLike | None = None, *, conf: float = 0.25, iou: float = 0.7, imgsz: ImageSize = None,
        max_det: int = 300, classes: Sequence[int] | None = None, agnostic_nms: bool = False, rect: bool = True,
        retina_masks: bool = True, batch: int = 1, half: bool = False, stream: Literal[True], verbose: bool = False,
    ) -> Iterator[Results]: ...  # fmt: skip

    def predict(
        self,
        source: Source,
        bboxes: PromptLike | None = None,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        *,
        conf: float = 0.25,
        iou: float = 0.7,
        imgsz: ImageSize = None,
        max_det: int = 300,
        classes: Sequence[int] | None = None,
        agnostic_nms: bool = False,
        rect: bool = True,
        retina_masks: bool = True,
        batch: int = 1,
        half: bool = False,
        stream: bool = False,
        verbose: bool = False,
    ) -> list[Results] | Iterator[Results]:
        """Segment images, and keeps what the prompts mean; everything where there are none.

        Args:
            source: As for `YOLO.predict`, and so are the other options.
            bboxes: (x1, y1, x2, y2) in px: ``(4,)`` or ``(N, 4)``; each means the mask that overlaps it best.
            points: (x, y) in px: ``(2,)`` or ``(P, 2)``; together they mean the masks that hold any of them.
            labels: 1 inside, 0 outside (masks that hold such a point go), ``(P,)``; all 1 if left out.
            conf: As there.
            iou: As there.
            imgsz: As there.
            max_det: As there.
            classes: As there.
            agnostic_nms: As there.
            rect: As there.
            retina_masks: As there.
            batch: As there.
            half: As there.
            stream: As there.
            verbose: As there.

        Raises:
            PromptError: A prompt cannot be used.
            UsageError: An option that means nothing.
            ImageError: An image cannot be read.
        """
        thresholds = Thresholds(conf, iou, max_det, classes, agnostic_nms)
        results = (
            choose(snap_to_border(found), bboxes, points, labels)
            for found in self._find(source, thresholds, imgsz, rect, batch)
        )
        return results if stream else list(results)

    __call__ = predict


def _check_parity(metadata: Mapping[str, str], path: Path) -> None:
    try:
        record = json.loads(metadata.get(PARITY, "{}"))
    except ValueError:
        record = {}
    if isinstance(record, dict) and record.get("verdict") == "failed":
        raise ParityError(
            "this graph does not give the checkpoint's boxes and masks",
            where=path,
            cure="Export it again, or load it with force=True to look at it",
            **{name: value for name, value in record.items() if name != "where"},
        )
