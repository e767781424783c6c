"""`auto_annotate`: label a folder of images. A detector finds and classifies the objects, SAM segments them.

    samedge.auto_annotate("photos", det_model="yolov8x.pt", sam_model="sam_b.pt")

writes ``photos_auto_annotate_labels/`` beside the folder: one file of YOLO segmentation labels per image that contains
objects, ``data.yaml`` and ``classes.txt`` with the class names, ``annotations.coco.json`` with the same objects, and
``annotate.jsonl``, the manifest of the run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, get_args

from samedge.annotation.coco_file import COCO_NAME, CocoSegmentation, write_class_names, write_coco
from samedge.annotation.detectors import MODEL_SIDE, DetectOptions, Detector, DetectorLike, Names, open_detector
from samedge.annotation.image_set import ImageSet
from samedge.annotation.journal import Journal
from samedge.annotation.objects import LabelHoles, LabelParts, MaskPolicy
from samedge.annotation.pace import Pace
from samedge.annotation.pipeline import Pipeline, Task
from samedge.annotation.records import ImageRecord, Reason
from samedge.api.sam import DEFAULT_CONF, SAM
from samedge.engines.selection import usable_cores
from samedge.errors import UsageError
from samedge.runtime.image.value_range import ValueRange
from samedge.runtime.predictor import Predictor
from samedge.runtime.yolo.detections import Thresholds

MOST_WORKERS: Final = 4
"""More threads would be idle: detector and encoder take longer than reading and drawing."""
_LISTED_FAILURES: Final = 1000


@dataclass(frozen=True, slots=True)
class AnnotateStep:
    """Progress after one image.

    Attributes:
        record: Record of the image; None in the first step, before any image.
        pace: Images done, and the rate.
    """

    record: ImageRecord | None
    pace: Pace


@dataclass(frozen=True, slots=True)
class AnnotateReport:
    """Outcome of a run.

    Attributes:
        output: Folder of the labels.
        coco: The COCO file.
        manifest: The record of the run, one JSON line per image.
        images: Number of images.
        resumed: Images finished by earlier runs.
        annotated: Images of this run with objects.
        empty: Images of this run without objects.
        failed: Name and cause of the first thousand failed images.
        failures: Number of failed images.
        objects: Objects labelled in this run.
        dropped: Number of boxes without labels, by reason.
    """

    output: Path
    coco: Path
    manifest: Path
    images: int
    resumed: int
    annotated: int
    empty: int
    failed: tuple[tuple[str, str], ...]
    failures: int
    objects: int
    dropped: Mapping[Reason, int]


def auto_annotate(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    det_model: DetectorLike = "yolov8x.pt",
    sam_model: str | os.PathLike[str] | SAM = "sam_b.pt",
    device: str = "",
    conf: float = 0.25,
    iou: float = 0.45,
    imgsz: int | tuple[int, int] = MODEL_SIDE,
    max_det: int = 300,
    classes: Collection[int] | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    *,
    names: Names = None,
    sam_conf: float = DEFAULT_CONF,
    parts: LabelParts = "bridge",
    holes: LabelHoles = "fill",
    min_area: int = 0,
    coco_segmentation: CocoSegmentation = "rle",
    recursive: bool = True,
    workers: int | None = None,
    restart: bool = False,
    backend: str = "auto",
    threads: int | None = None,
    force: bool = False,
    value_range: ValueRange = None,
    progress: Callable[[AnnotateStep], None] | None = None,
) -> AnnotateReport:
    """Annotate images with the boxes and classes of a detector and the masks of SAM.

    Calling it again resumes an interrupted run. An image that fails is reported and does not stop the others; the next
    call tries it again.

    Args:
        data: A folder, an image, a pattern, or a list of these.
        det_model: A YOLOv8 detector or segmenter (checkpoint, graph file, or an opened `samedge.YOLO`); a ``.json`` of
            boxes (COCO's annotations or detections, or ``{image: [[x1, y1, x2, y2, class], ...]}``); or a function
            that takes an image (BGR uint8 ``(H, W, 3)``) and returns (boxes ``(N, 4)`` x1, y1, x2, y2 in px, N classes)
            or (boxes, classes, scores).
        sam_model: A bundle, a checkpoint, a known name, or an opened `samedge.SAM`.
        device: "cpu", "cuda", ... of both models; empty lets the backends choose.
        conf: Minimum score (exclusive) of a box that has one.
        iou: Of two boxes of one class with a greater IoU, the one with the lower score is dropped. Applies to YOLO
            models only: the boxes of functions and files are not suppressed.
        imgsz: Side of the detector's input, or (height, width), px; a graph of one fixed size uses its own.
        max_det: Maximum number of boxes per image; the best are kept.
        classes: Keep only these classes, numbered as in the labels.
        output_dir: Folder of the labels, which mirrors the folders of the images; by default
            ``<name of the data>_auto_annotate_labels`` beside the data.
        names: Class names, for a function or in place of a model's own.
        sam_conf: Masks are dropped, and reported, unless their predicted IoU exceeds this.
        parts: Treatment of masks in several parts in the labels; see `MaskPolicy`. The COCO file keeps masks unchanged.
        holes: Treatment of holes in the labels.
        min_area: First remove parts and fill holes of fewer px.
        coco_segmentation: Masks of the COCO file: "rle", or "polygon" for tools that read polygons only; holes as in
            `holes`, several parts as several polygons.
        recursive: Include images in subfolders.
        workers: Threads that read images, and as many again that draw masks; by default one per physical core, at
            most 4.
        restart: Start over, and remove labels that an earlier run left in the folder.
        backend: Backend of both models; see `samedge.load`.
        threads: CPU threads of both models.
        force: Also use models that failed their parity check.
        value_range: As for `samedge.load`; an opened model keeps its own.
        progress: Called at the start and after each image, from one of two threads at a time.

    Returns:
        The counts and the paths of the files.

    Raises:
        UsageError: An option is invalid, the folder holds labels made with other settings, or a function returned
            something other than boxes.
        ImageError: There are no images.
        StorageError: A file cannot be read or written.
        SamedgeError: A model cannot be opened.
    """
    Thresholds(conf, iou, max_det)  # validates the values
    if workers is not None and workers < 1:
        raise UsageError(f"invalid workers: {workers}", cure="Give 1 or more")
    images = ImageSet(data, recursive=recursive)
    total = images.count()
    options = DetectOptions(conf, iou, imgsz, max_det, None if classes is None else sorted(set(classes)))
    policy = MaskPolicy(parts, holes, min_area)
    if coco_segmentation not in get_args(CocoSegmentation):
        raise UsageError(f"unknown coco_segmentation {coco_segmentation!r}", cure="Choose rle or polygon")
    output = images.default_output if output_dir is None else Path(output_dir)
    with ExitStack() as stack:
        detector = open_detector(
            det_model,
            options,
            names=names,
            backend=backend,
            device=device or None,
            threads=threads,
            force=force,
            value_range=value_range,
        )
        stack.callback(detector.close)
        if isinstance(sam_model, (str, os.PathLike)):
            sam = SAM(
                sam_model, backend=backend, device=device or None, threads=threads, force=force, value_range=value_range
            )
            stack.callback(sam.close)
        else:
            sam = sam_model
        predictor = sam.predictor.twin()  # leaves the caller's predictor free for other images
        settings = {"folder": images.root.name, **_settings(options, policy, sam_conf, detector, predictor)}
        journal = stack.enter_context(Journal(output, settings, restart=restart))
        run = _Run(journal, detector, total, progress)
        workers = workers or min(MOST_WORKERS, usable_cores())
        pipeline = Pipeline(detector, policy, sam_conf=sam_conf, workers=workers, finish=run.finish)
        pipeline.run(predictor, run.tasks(images))
        names_of_classes = write_coco(output, journal, detector.categories, policy, coco_segmentation)
        write_class_names(output, images.root, names_of_classes, journal)
        return run.report(output)


class _Run:
    """Counts of a run in progress."""

    def __init__(
        self, journal: Journal, detector: Detector, total: int, progress: Callable[[AnnotateStep], None] | None
    ) -> None:
        self._journal, self._progress, self._pace = journal, progress, Pace(total)
        self._resumed = 0
        self._by_status: Counter[str] = Counter()
        self._dropped: Counter[Reason] = Counter()
        self._objects = 0
        self._failed: list[tuple[str, str]] = []
        for image in journal.images:
            detector.remember(image)

    def tasks(self, images: ImageSet) -> Iterator[Task]:
        """Yield the images not yet done."""
        self._tell(None)
        for entry in images:
            size, changed = 0, 0
            with suppress(OSError):  # reading it reports the cause
                file = entry.path.stat()
                size, changed = file.st_size, file.st_mtime_ns
            if self._journal.is_done(entry.name, size, changed):
                with self._journal.lock:
                    self._resumed += 1
                    self._pace.skip()
            else:
                yield Task(entry, size, changed)

    def finish(self, record: ImageRecord, labels: str) -> None:
        """Store an image's record and labels, and count the image."""
        if not self._journal.finish(record, labels):
            return
        with self._journal.lock:
            self._by_status[record.status] += 1
            self._objects += len(record.objects)
            self._dropped.update(drop.reason for drop in record.dropped)
            if record.error is not None and len(self._failed) < _LISTED_FAILURES:
                self._failed.append((record.image, record.error))
            self._pace.step()
            self._tell(record)

    def _tell(self, record: ImageRecord | None) -> None:
        if self._progress is not None:
            self._progress(AnnotateStep(record, self._pace))

    def report(self, output: Path) -> AnnotateReport:
        """Return the outcome of the run."""
        count = self._by_status
        return AnnotateReport(
            output=output, coco=output / COCO_NAME, manifest=self._journal.path, images=self._resumed + count.total(),
            resumed=self._resumed, annotated=count["annotated"], empty=count["empty"], failed=tuple(self._failed),
            failures=count["failed"], objects=self._objects, dropped=dict(self._dropped),
        )  # fmt: skip


def _settings(
    options: DetectOptions, policy: MaskPolicy, sam_conf: float, detector: Detector, predictor: Predictor
) -> dict[str, object]:
    """Return the settings that the labels depend on, which exclude backend, device and threads."""
    encoder, model = predictor.info.graph("encoder"), predictor.info.model
    names = {str(category.number): category.name for category in detector.categories}
    return {
        **detector.settings, "names": names, "conf": options.conf, "iou": options.iou, "max_det": options.max_det,
        "classes": options.classes, "sam": model.name, "sam_checkpoint": model.checkpoint_sha256,
        "sam_encoder": encoder.graph.sha256, "sam_conf": sam_conf, **asdict(policy),
        **({} if predictor.value_range is None else {"value_range": predictor.value_range}),
    }  # fmt: skip
