"""``samedge predict`` with a YOLOv8 or FastSAM: which options it takes, and what is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samedge.errors import BundleError, UsageError

if TYPE_CHECKING:
    from samedge.api.yolo import YOLO
    from samedge.runtime.results.results import Results


def is_yolo_model(model: str) -> bool:
    """Whether a bundle is that of a YOLO, or the model a graph file, which a SAM is never opened from.

    Of engines only those are a YOLO's that say so, in Ultralytics' header.
    """
    from samedge.api.yolo import GRAPH_SUFFIXES
    from samedge.bundle.archive import ENGINE_SUFFIXES, bundle_manifest
    from samedge.engines.tensorrt.plan_file import inspect_plan

    path = Path(model)
    if path.suffix.lower() in ENGINE_SUFFIXES:
        return bool(inspect_plan(path).metadata)
    if path.suffix.lower() in GRAPH_SUFFIXES:
        return True
    try:
        return bundle_manifest(model).yolo is not None
    except BundleError:
        return False  # opening it says what is wrong


def check_kind(kind: str, **given: bool) -> None:
    """Refuse options that mean nothing for the kind of model that was opened.

    Args:
        kind: "a YOLO" or "a SAM".
        given: Options, as they are typed but for dashes, and whether they were given.

    Raises:
        UsageError: One was.
    """
    from samedge.options import refuse_foreign

    refuse_foreign(kind, {f"--{option.replace('_', '-')}": wrong for option, wrong in given.items()})


def open_yolo(
    model: str, *, prompted: bool, backend: str, device: str | None, threads: int | None, force: bool
) -> YOLO:
    """Open a YOLO; a FastSAM, or whatever is asked with prompts, as one that takes them."""
    from samedge.api.yolo import YOLO, FastSAM

    found = YOLO(model, backend=backend, device=device, threads=threads, force=force)
    info = found.predictor.info
    if not prompted and (info is None or not info.model.name.startswith("fastsam")):
        return found
    if found.task != "segment":
        raise UsageError("prompts choose among masks, and this model has none", where=model, cure="Use a segmenter")
    found.close()
    return FastSAM(model, backend=backend, device=device, threads=threads, force=force)


def find_objects(
    model: YOLO,
    image: Path,
    boxes: Sequence[Sequence[float]],
    points: Sequence[Sequence[float]],
    labels: Sequence[int],
    *,
    conf: float | None,
    iou: float | None,
    max_det: int | None,
    classes: Sequence[int] | None,
    agnostic_nms: bool,
    imgsz: int | None,
) -> Results:
    """Return the objects of one image, those that the prompts mean if there are any."""
    from samedge.api.yolo import FastSAM
    from samedge.runtime.yolo.detections import Thresholds

    usual = Thresholds()
    conf, iou = usual.conf if conf is None else conf, usual.iou if iou is None else iou
    most = usual.max_det if max_det is None else max_det
    if isinstance(model, FastSAM):
        (found,) = model.predict(
            image, boxes or None, points or None, labels or None, conf=conf, iou=iou, max_det=most,
            classes=classes or None, agnostic_nms=agnostic_nms, imgsz=imgsz,
        )  # fmt: skip
        return found
    (found,) = model.predict(
        image, conf=conf, iou=iou, max_det=most, classes=classes or None, agnostic_nms=agnostic_nms, imgsz=imgsz
    )
    return found


def print_objects(results: Results) -> None:
    """Write the image's name and size to stdout, on one line however long it is, and the objects that were found."""
    from rich.console import Console

    from samedge.tables import rich_table

    console = Console()
    title = f"{results.path or 'image'} {results.orig_shape[1]}×{results.orig_shape[0]}"
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    columns = ("class", "score", "x1", "y1", "x2", "y2", *([] if results.masks is None else ["area, px"]))
    rows = []
    if results.boxes is not None:
        areas = [] if results.masks is None else [[str(int(mask.sum()))] for mask in results.masks.iter_masks()]
        for number, (*box, score, kind) in enumerate(results.boxes.data.tolist()):
            shown = [f"{side:.0f}" for side in box]
            rows.append((results.name_of(int(kind)), f"{score:.3f}", *shown, *(areas[number] if areas else [])))
    console.print(rich_table(None, columns, rows, right=range(1, 7)))
