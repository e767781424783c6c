"""Images through detector and SAM: read ahead by some threads, detected and encoded in another, decoded by the caller.

    reading threads ──► detector and encoder (the stream's thread) ──► decoder (the caller) ──► drawing threads
    workers, in order   images without boxes end here                  prompts to logits        masks to RLE and lines

At most ``workers + 2`` pictures and the stream's few encoded images are in memory, and a mask for each drawing thread;
how many images there are does not matter. Threads and not processes: decoding a JPEG, enlarging a mask and finding its
outlines are done by native code that lets other threads run, and a picture need not be copied from process to process.
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
from samedge.runtime.predictor import Predictor
from samedge.runtime.results.prediction import Prediction
from samedge.types import ImageArray

Finish = Callable[[ImageRecord, str], None]
"""Takes an image's record and its labels, from either of two threads; raises ImageError where it cannot keep them."""

_OF_ONE_IMAGE: Final = (ImageError, PromptError, EngineError)
"""What is wrong with one image, and does not end the run."""


@dataclass(frozen=True, slots=True)
class Task:
    """An image that is to be done.

    Attributes:
        entry: Which.
        bytes: Size of its file.
        mtime_ns: When it was changed.
    """

    entry: ImageEntry
    bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class _Job:
    """An image with boxes, on its way through SAM."""

    task: Task
    proposals: Proposals
    usable: tuple[int, ...]
    dropped: tuple[DropRecord, ...]


class Pipeline:
    """One run over some images.

    Args:
        detector: Proposes boxes; called in the stream's thread.
        policy: What becomes of parts and holes.
        sam_conf: Masks whose predicted IoU is not greater are dropped.
        workers: Threads that read images, and as many that draw masks; 1 or more.
        finish: Told of each image.
    """

    def __init__(
        self, detector: Detector, policy: MaskPolicy, *, sam_conf: float, workers: int, finish: Finish
    ) -> None:
        self._detector = detector
        self._policy = policy
        self._sam_conf = sam_conf
        self._workers = workers
        self._finish = finish
        self._on_the_way: deque[_Job] = deque()
        self._stopped = False

    def run(self, predictor: Predictor, tasks: Iterable[Task]) -> None:
        """Do all images. An image that fails is finished as such, and the rest goes on.

        Raises:
            SamedgeError: Something that does not concern one image alone.
        """
        with ThreadPoolExecutor(self._workers, "samedge-draw") as pool:
            decode = partial(self._decode, pool)
            try:
                with predictor.stream(self._detected(tasks), decode=decode, errors="yield") as items:
                    for item in items:
                        job = self._on_the_way.popleft()
                        try:
                            self._finish(*item.result)
                        except _OF_ONE_IMAGE as error:
                            self._fail(job.task, error)
            finally:
                self._stopped = True
                pool.shutdown(wait=False, cancel_futures=True)

    def _detected(self, tasks: Iterable[Task]) -> Iterator[tuple[ImageArray, dict[str, Any]]]:
        """Yield images that have boxes, and finishes the others. Runs in the stream's thread."""
        for task, image in _read_ahead(tasks, self._workers):
            if self._stopped:
                return
            if isinstance(image, ImageError):
                self._fail(task, image)
                continue
            try:
                proposals = self._detector.propose(image, task.entry.name)
            except _OF_ONE_IMAGE as error:
                self._fail(task, error)
                continue
            height, width = image.shape[:2]
            usable, dropped = _usable_boxes(proposals, width, height)
            job = _Job(task, proposals, usable, dropped)
            if usable:
                self._on_the_way.append(job)
                yield image, {"job": job}
            else:
                self._finish(*_finished(job, width, height, [], [], ""))

    def _fail(self, task: Task, error: SamedgeError) -> None:
        why = ". ".join(part for part in (error.what, error.cure) if part)
        record = ImageRecord(task.entry.name, "failed", task.bytes, task.mtime_ns, error=why)
        self._finish(record, "")

    def _decode(self, pool: ThreadPoolExecutor, predictor: Predictor, *, job: _Job) -> tuple[ImageRecord, str]:
        """Segment the present image of a predictor by the boxes of a job. Runs in the caller's thread."""
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
            # Every mask says which prompt it answers, whichever others were dropped: a class stays with its box.
            number = job.usable[int(prediction.prompt_index[row])]
            category, trust = int(job.proposals.classes[number]), float(prediction.scores[row])
            if not form.area:
                dropped.append(_drop(job.proposals, number, "empty", trust))
                continue
            if not form.polygons:
                dropped.append(_drop(job.proposals, number, "polygon", trust))
            lines += [label_line(category, polygon, geometry.width, geometry.height) for polygon in form.polygons]
            score = float(job.proposals.scores[number])
            objects.append(
                ObjectRecord(
                    proposal=number,
                    category=category,
                    score=None if np.isnan(score) else score,
                    predicted_iou=trust,
                    rle=form.rle,
                    box=form.box,
                    area=form.area,
                    lines=len(form.polygons),
                )
            )
        labels = "".join(f"{line}\n" for line in lines)
        return _finished(job, geometry.width, geometry.height, objects, dropped, labels)


def _forms(prediction: Prediction, policy: MaskPolicy, row: int) -> MaskForms:
    """Draw one mask; in a thread of its own, with what it needs in memory until the next one."""
    (mask,) = prediction[[row]].iter_masks()
    return mask_forms(mask, policy)


def _finished(
    job: _Job, width: int, height: int, objects: list[ObjectRecord], dropped: list[DropRecord], labels: str
) -> tuple[ImageRecord, str]:
    task = job.task
    record = ImageRecord(
        image=task.entry.name,
        status="annotated" if objects else "empty",
        bytes=task.bytes,
        mtime_ns=task.mtime_ns,
        width=width,
        height=height,
        label=task.entry.label if labels else None,
        objects=tuple(objects),
        dropped=tuple(sorted([*job.dropped, *dropped], key=lambda drop: drop.proposal)),
    )
    return record, labels


def _usable_boxes(proposals: Proposals, width: int, height: int) -> tuple[tuple[int, ...], tuple[DropRecord, ...]]:
    """Return which boxes SAM can be asked for, and the others."""
    with np.errstate(invalid="ignore"):
        low = np.maximum(proposals.boxes[:, :2], 0)
        high = np.minimum(proposals.boxes[:, 2:], np.array([width, height], np.float32))
        good = np.isfinite(proposals.boxes).all(1) & (high > low).all(1)
    usable = tuple(np.flatnonzero(good).tolist())
    return usable, tuple(_drop(proposals, number, "box") for number in np.flatnonzero(~good).tolist())


def _drop(proposals: Proposals, number: int, reason: Reason, trust: float | None = None) -> DropRecord:
    x1, y1, x2, y2 = np.nan_to_num(proposals.boxes[number]).tolist()
    return DropRecord(number, int(proposals.classes[number]), (x1, y1, x2, y2), reason, trust)


def _read_ahead(tasks: Iterable[Task], workers: int) -> Iterator[tuple[Task, ImageArray | ImageError]]:
    """Yield images in their order, read by some threads; an error in place of one that cannot be read."""
    with ThreadPoolExecutor(workers, "samedge-read") as pool:
        try:
            yield from _ordered(pool, _read, tasks, workers)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read(task: Task) -> tuple[Task, ImageArray | ImageError]:
    try:
        return task, read_image(task.entry.path)
    except ImageError as error:
        return task, error


def _ordered(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Yield what the work gives for each item, in their order; at most so many are ahead, done or being done."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
