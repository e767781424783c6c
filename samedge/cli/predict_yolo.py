"""``samedge predict`` with a YOLOv8 or FastSAM model: its options and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samedge.errors import BundleError, UsageError

if TYPE_CHECKING:
    from samedge.api.yolo import YOLO
    from samedge.runtime.results.results import Results


def is_yolo_model(model: str) -> bool:
    """Return True for a bundle of a YOLO model and for a graph file, from which SAM models are never opened.

    An engine counts as a YOLO model only if it has Ultralytics' header.
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
        return False  # opening it reports the cause


def check_kind(kind: str, **given: bool) -> None:
    """Refuse options that the opened kind of model does not support.

    Args:
        kind: "a YOLO" or "a SAM".
        given: Names of the options, with underscores for dashes; True for those that were given.

    Raises:
        UsageError: An option was given.
    """
    from samedge.options import refuse_foreign

    refuse_foreign(kind, {f"--{option.replace('_', '-')}": wrong for option, wrong in given.items()})


def open_yolo(
    model: str, *, prompted: bool, backend: str, device: str | None, threads: int | None, force: bool
) -> YOLO:
    """Open a YOLO model; as FastSAM, which takes prompts, if it is one or if there are prompts."""
    from samedge.api.yolo import YOLO, FastSAM

    opened = YOLO(model, backend=backend, device=device, threads=threads, force=force)
    info = opened.predictor.info
    if not prompted and (info is None or not info.model.name.startswith("fastsam")):
        return opened
    if opened.task != "segment":
        raise UsageError("prompts select masks, and this model has none", where=model, cure="Use a segmenter")
    opened.close()
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
    """Return the objects of one image, or those that the prompts select."""
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
    """Write the image's name and size, on one unwrapped line, and the table of objects to stdout."""
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
