"""``samedge predict`` with a YOLOv8 or FastSAM model: its options and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from samedge.cli.family import Asked, Place
from samedge.errors import UsageError

if TYPE_CHECKING:
    from samedge.api.yolo import YOLO
    from samedge.bundle.manifest import Manifest
    from samedge.bundle.yolo_record import YoloRecord
    from samedge.runtime.results.results import Results

_SHOWN_NAMES: Final = 6


class YoloCommand:
    """The `samedge.cli.family.FamilyCommand` of YOLOv8 and FastSAM."""

    def open(self, model: str, asked: Asked, place: Place) -> YoloFinder:
        """See `FamilyCommand`."""
        from samedge.options import refuse_foreign

        refuse_foreign("a YOLO", asked.given("masks", "each_point", "multimask", "everything"))
        return YoloFinder(open_yolo(model, place, prompted=bool(asked.prompts)), asked)

    def rows(self, manifest: Manifest) -> dict[str, str]:
        """See `FamilyCommand`."""
        return {} if manifest.yolo is None else _rows(manifest.yolo)

    def measured_at(self, manifest: Manifest) -> str:
        """See `FamilyCommand`."""
        return "" if manifest.yolo is None else f" at {_by(manifest.yolo.image_size)} px"


class YoloFinder:
    """The `samedge.cli.family.Finder` of a YOLO or FastSAM."""

    def __init__(self, model: YOLO, asked: Asked) -> None:
        self._model = model
        self._asked = asked
        self.backend, self.device = model.predictor.backend, model.predictor.device

    def find(self, image: Path) -> Results:
        """See `Finder`."""
        return find_objects(self._model, image, self._asked)

    def show(self, results: Results) -> None:
        """See `Finder`."""
        print_objects(results)


def open_yolo(model: str, place: Place, *, prompted: bool) -> YOLO:
    """Open a YOLO; a FastSAM, or whatever is asked with prompts, as one that takes them."""
    from samedge.api.yolo import YOLO, FastSAM

    found = YOLO(model, backend=place.backend, device=place.device, threads=place.threads, force=place.force)
    info = found.predictor.info
    if not prompted and (info is None or not info.model.name.startswith("fastsam")):
        return found
    if found.task != "segment":
        raise UsageError("prompts select masks, and this model has none", where=model, cure="Use a segmenter")
    found.close()
    return FastSAM(model, backend=place.backend, device=place.device, threads=place.threads, force=place.force)


def find_objects(model: YOLO, image: Path, asked: Asked) -> Results:
    """Return the objects of one image, those that the prompts mean if there are any."""
    from samedge.api.yolo import FastSAM
    from samedge.runtime.yolo.detections import Thresholds

    usual = Thresholds()
    conf, iou = usual.conf if asked.conf is None else asked.conf, usual.iou if asked.iou is None else asked.iou
    most = usual.max_det if asked.max_det is None else asked.max_det
    classes, size = list(asked.classes or ()) or None, asked.imgsz
    if isinstance(model, FastSAM):
        (found,) = model.predict(
            image, list(asked.boxes) or None, list(asked.points) or None, list(asked.labels) or None, conf=conf,
            iou=iou, max_det=most, classes=classes, agnostic_nms=asked.agnostic_nms, imgsz=size,
        )  # fmt: skip
        return found
    (found,) = model.predict(
        image, conf=conf, iou=iou, max_det=most, classes=classes, agnostic_nms=asked.agnostic_nms, imgsz=size
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


def _rows(yolo: YoloRecord) -> dict[str, str]:
    shown = ", ".join(yolo.names[:_SHOWN_NAMES])
    more = f" and {len(yolo.names) - _SHOWN_NAMES} more" if len(yolo.names) > _SHOWN_NAMES else ""
    free = f"any multiples of {max(yolo.strides)} px, default {_by(yolo.image_size)}"
    nms = "on the host"
    if yolo.nms is not None:
        kind = "across classes" if yolo.nms.agnostic else "class by class"
        nms = f"in the graph: conf {yolo.nms.conf:g}, iou {yolo.nms.iou:g}, max_det {yolo.nms.max_det}, {kind}"
    return {
        "task": yolo.task,
        "classes": f"{len(yolo.names)}: {shown}{more}",
        "strides": ", ".join(str(stride) for stride in yolo.strides),
        "input": free if yolo.dynamic else f"{_by(yolo.image_size)} px",
        "suppression": nms,
        "I/O scheme": "Ultralytics' names and shapes",
    }


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
