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
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

from samedge.api.cached import cached_bundle
from samedge.api.load import load
from samedge.bundle.archive import GRAPH_SUFFIXES, is_bundle
from samedge.engines.registry import open_engine
from samedge.engines.tensorrt.build.options import AxisRange
from samedge.errors import ParityError, SamedgeError, UsageError, missing_extra
from samedge.export.engines.export import ENGINE_FORMATS, export_with_engines
from samedge.options import refuse_foreign
from samedge.runtime.image.read import ImageSource
from samedge.runtime.image.sources import Source, iter_sources
from samedge.runtime.prompts.choose import choose
from samedge.runtime.prompts.shapes import PromptLike
from samedge.runtime.results.results import Results
from samedge.runtime.yolo.detections import Thresholds
from samedge.runtime.yolo.fastsam import snap_to_border
from samedge.runtime.yolo.graph import PARITY, describe_yolo
from samedge.runtime.yolo.metadata import read_graph_metadata
from samedge.runtime.yolo.predictor import YoloPredictor
from samedge.types import Precision

if TYPE_CHECKING:
    from samedge.export.exporter import ExportFormat

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
        """What the model does: "detect" or "segment"."""
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

    def export(
        self,
        format: ExportFormat = "onnx",
        *,
        output: str | Path | None = None,
        precision: Precision | None = None,
        calib: str | Path | None = None,
        targets: Sequence[str] = (),
        imgsz: ImageSize = None,
        dynamic: bool = False,
        batch: int = 1,
        nms: bool = False,
        conf: float = 0.25,
        iou: float = 0.7,
        max_det: int = 300,
        agnostic_nms: bool = False,
        opset: int = 17,
        check: bool = True,
    ) -> str:
        """Export the checkpoint as an ONNX file, or as a bundle with a TensorRT engine, and return its path.

        `samedge.export_model` makes bundles of graphs alone.

        Args:
            format: "onnx" for the file; "engine", "trt" or "rtx" for a bundle whose engine lies beside it, which is
                opened by the bundle's path.
            output: The file, or the bundle's folder or file; by default the checkpoint's name in the working folder.
            precision: Of an engine: "fp16" (the default), "fp32", or "int8" with images to calibrate with.
            calib: For int8: image, folder or pattern.
            targets: Of an engine: compute capabilities such as "8.6", for TensorRT for RTX.
            imgsz: Side of the input, or (height, width), px; the model's own if left out.
            dynamic: Leave height, width and the number of images free.
            batch: Images that are taken at once; with `dynamic`, at most (an ONNX file takes any number then).
            nms: Suppress boxes that overlap in the graph; with `conf`, `iou`, `max_det` and `agnostic_nms` as there.
            conf: With `nms`.
            iou: With `nms`.
            max_det: With `nms`.
            agnostic_nms: With `nms`.
            opset: ONNX opset.
            check: Compare the graph with the torch model.

        Raises:
            UsageError: The model is a graph already, or the format is not known.
            SamedgeError: As `export_yolo`, or `samedge.export_model` for engines.
        """
        if self._is_graph():
            raise UsageError("this is a graph already", where=self.model, cure="Export from the checkpoint")
        if format in ENGINE_FORMATS:
            if is_bundle(self.model):
                raise UsageError(
                    "this is a bundle already", where=self.model, cure=f"Build its engine: samedge build {self.model}"
                )
            images = AxisRange(1, 1, batch) if dynamic else AxisRange(batch, batch, batch)
            return str(
                export_with_engines(
                    self.model, format, precision=precision, opset=opset, calib=calib, output=output, image_size=imgsz,
                    check=check, targets=targets, batch=images, dynamic=dynamic, nms=nms, conf=conf, iou=iou,
                    max_det=max_det, agnostic_nms=agnostic_nms,
                )[0]
            )  # fmt: skip
        if format != "onnx":
            raise UsageError(
                f"there is no format {format!r}", cure=f"Choose one of: {', '.join(('onnx', *ENGINE_FORMATS))}"
            )
        engine_only = {"precision": precision is not None, "calib": calib is not None, "targets": bool(targets)}
        refuse_foreign("an ONNX file", engine_only)
        try:
            from samedge.export.yolo.export import export_yolo
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torch", "export,cpu", "Exporting a checkpoint") from error
        path = export_yolo(
            self.model, output, image_size=imgsz, dynamic=dynamic, opset=opset, check=check,
            batch=None if dynamic else batch, nms=nms, conf=conf, iou=iou, max_det=max_det, agnostic_nms=agnostic_nms,
        )  # fmt: skip
        return str(path)

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
