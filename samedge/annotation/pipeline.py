"""The annotation pipeline: images are read ahead, detected and encoded in one thread, decoded in the caller's.

    reading threads ──► detector and encoder (the stream's thread) ──► decoder (the caller) ──► drawing threads
    workers, in order   images without boxes end here                  prompts to logits        masks to RLE and lines

Memory does not grow with the data set: at most ``workers + 2`` images, the stream's few encoded images, and one mask
per drawing thread are held. Threads suffice, and save copying images between processes, because JPEG decoding, mask
resizing and contour finding are native code that releases the GIL.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from samedge.annotation.detectors import Detector
from samedge.annotation.image_set import ImageEntry
from samedge.annotation.objects import MaskForms, MaskPolicy, label_line, mask_forms
from samedge.annotation.proposals import Proposals
from samedge.annotation.records import DropRecord, ImageRecord, ObjectRecord, Reason
from samedge.errors import EngineError, ImageError, PromptError, SamedgeError
from samedge.runtime.image.read import read_image
from samedge.runtime.image.value_range import ValueRange
from samedge.runtime.predictor import Predictor
from samedge.runtime.results.prediction import Prediction
from samedge.types import ImageArray

Finish = Callable[[ImageRecord, str], None]
"""Stores an image's record and labels; called from either of two threads; raises ImageError if it cannot."""

_IMAGE_FAILURES: Final = (ImageError, PromptError, EngineError)
"""Errors that concern one image and do not end the run."""


@dataclass(frozen=True, slots=True)
class Task:
    """An image to annotate, with the size and modification time of its file."""

    entry: ImageEntry
    bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class _Job:
    """An image with boxes, queued for SAM; `usable` are the indices of those with area."""

    task: Task
    proposals: Proposals
    usable: tuple[int, ...]
    dropped: tuple[DropRecord, ...]


class Pipeline:
    """A run over a set of images, with `workers` reading threads and as many drawing threads.

    The detector is called in the stream's thread. Masks are dropped unless their predicted IoU exceeds `sam_conf`.
    """

    def __init__(
        self, detector: Detector, policy: MaskPolicy, *, sam_conf: float, workers: int, finish: Finish
    ) -> None:
        self._detector, self._policy, self._sam_conf = detector, policy, sam_conf
        self._workers, self._finish = workers, finish
        self._queued: deque[_Job] = deque()
        self._stopped = False

    def run(self, predictor: Predictor, tasks: Iterable[Task]) -> None:
        """Process all images; one that fails is recorded and does not stop the others; other errors end the run."""
        with ThreadPoolExecutor(self._workers, "samedge-draw") as pool:
            decode = partial(self._decode, pool)
            try:
                with predictor.stream(
                    self._detected(tasks, predictor.value_range), decode=decode, errors="yield"
                ) as items:
                    for item in items:
                        job = self._queued.popleft()
                        try:
                            self._finish(*item.result)
                        except _IMAGE_FAILURES as error:
                            self._fail(job.task, error)
            finally:
                self._stopped = True
                pool.shutdown(wait=False, cancel_futures=True)

    def _detected(self, tasks: Iterable[Task], value_range: ValueRange) -> Iterator[tuple[ImageArray, dict[str, Any]]]:
        """Yield the images that have boxes and finish the others. Runs in the stream's thread."""
        for task, image in _read_ahead(tasks, self._workers, value_range):
            if self._stopped:
                return
            if isinstance(image, ImageError):
                self._fail(task, image)
                continue
            try:
                proposals = self._detector.propose(image, task.entry.name)
            except _IMAGE_FAILURES as error:
                self._fail(task, error)
                continue
            height, width = image.shape[:2]
            usable, dropped = _usable_boxes(proposals, width, height)
            job = _Job(task, proposals, usable, dropped)
            if usable:
                self._queued.append(job)
                yield image, {"job": job}
            else:
                self._finish(*_finished(job, width, height, [], [], ""))

    def _fail(self, task: Task, error: SamedgeError) -> None:
        cause = ". ".join(part for part in (error.what, error.cure) if part)
        self._finish(ImageRecord(task.entry.name, "failed", task.bytes, task.mtime_ns, error=cause), "")

    def _decode(self, pool: ThreadPoolExecutor, predictor: Predictor, *, job: _Job) -> tuple[ImageRecord, str]:
        """Segment the predictor's current image with the boxes of a job. Runs in the caller's thread."""
        geometry = predictor.geometry
        prediction = predictor.predict(boxes=job.proposals.boxes[list(job.usable)])
        wanted = np.flatnonzero(prediction.scores > self._sam_conf)
        dropped = [
            _drop(job.proposals, job.usable[int(prediction.prompt_index[row])], "score", float(prediction.scores[row]))
            for row in np.flatnonzero(~(prediction.scores > self._sam_conf))
        ]
        objects: list[ObjectRecord] = []
        lines: list[str] = []
        forms = _ordered(pool, partial(_forms, prediction, self._policy), wanted.tolist(), self._workers)
        for row, form in zip(wanted.tolist(), forms, strict=True):
            # prompt_index, not the row, links a mask to its box: masks of other boxes may have been dropped.
            number = job.usable[int(prediction.prompt_index[row])]
            category, trust = int(job.proposals.classes[number]), float(prediction.scores[row])
            if not form.area:
                dropped.append(_drop(job.proposals, number, "empty", trust))
                continue
            if not form.polygons:
                dropped.append(_drop(job.proposals, number, "polygon", trust))
            lines += [label_line(category, polygon, geometry.width, geometry.height) for polygon in form.polygons]
            given, line_count = float(job.proposals.scores[number]), len(form.polygons)
            score = None if np.isnan(given) else given
            objects.append(ObjectRecord(number, category, score, trust, form.rle, form.box, form.area, line_count))
        labels = "".join(f"{line}\n" for line in lines)
        return _finished(job, geometry.width, geometry.height, objects, dropped, labels)


def _forms(prediction: Prediction, policy: MaskPolicy, row: int) -> MaskForms:
    """Draw one mask and return its stored forms. Runs in a drawing thread."""
    (mask,) = prediction[[row]].iter_masks()
    return mask_forms(mask, policy)


def _finished(
    job: _Job, width: int, height: int, objects: list[ObjectRecord], dropped: list[DropRecord], labels: str
) -> tuple[ImageRecord, str]:
    task, every = job.task, sorted([*job.dropped, *dropped], key=lambda drop: drop.proposal)
    record = ImageRecord(
        image=task.entry.name, status="annotated" if objects else "empty", bytes=task.bytes, mtime_ns=task.mtime_ns,
        width=width, height=height, label=task.entry.label if labels else None, objects=tuple(objects),
        dropped=tuple(every),
    )  # fmt: skip
    return record, labels


def _usable_boxes(proposals: Proposals, width: int, height: int) -> tuple[tuple[int, ...], tuple[DropRecord, ...]]:
    """Return the indices of the boxes with area inside the image, and records of the others."""
    with np.errstate(invalid="ignore"):
        low = np.maximum(proposals.boxes[:, :2], 0)
        high = np.minimum(proposals.boxes[:, 2:], np.array([width, height], np.float32))
        good = np.isfinite(proposals.boxes).all(1) & (high > low).all(1)
    usable = tuple(np.flatnonzero(good).tolist())
    return usable, tuple(_drop(proposals, number, "box") for number in np.flatnonzero(~good).tolist())


def _drop(proposals: Proposals, number: int, reason: Reason, trust: float | None = None) -> DropRecord:
    x1, y1, x2, y2 = np.nan_to_num(proposals.boxes[number]).tolist()
    return DropRecord(number, int(proposals.classes[number]), (x1, y1, x2, y2), reason, trust)


def _read_ahead(
    tasks: Iterable[Task], workers: int, value_range: ValueRange
) -> Iterator[tuple[Task, ImageArray | ImageError]]:
    """Yield images, or the errors of unreadable ones, in order, read ahead by several threads."""
    with ThreadPoolExecutor(workers, "samedge-read") as pool:
        try:
            yield from _ordered(pool, partial(_read, value_range), tasks, workers)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read(value_range: ValueRange, task: Task) -> tuple[Task, ImageArray | ImageError]:
    try:
        return task, read_image(task.entry.path, value_range)
    except ImageError as error:
        return task, error


def _ordered(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Yield the result of `work` for each item, in order, with at most `ahead` items submitted in advance."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
