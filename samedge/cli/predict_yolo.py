"""YOLO's and FastSAM's part of ``samedge predict`` and ``info``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, cast

from samedge.cli.family import Finder, OpenOptions, PredictRequest
from samedge.errors import UsageError

if TYPE_CHECKING:
    from samedge.api.yolo import YOLO
    from samedge.bundle.manifest import Manifest
    from samedge.bundle.yolo_record import YoloRecord
    from samedge.runtime.image.read import ImageSource
    from samedge.runtime.results.results import Results

_SHOWN_NAMES: Final = 6


class YoloCommand:
    """`FamilyCommand` of YOLO and FastSAM."""

    def open(self, model: str, request: PredictRequest, options: OpenOptions) -> Finder:
        """Open a bundle or a graph file of YOLO or FastSAM."""
        from samedge.options import refuse_foreign

        refuse_foreign("a YOLO", request.given("masks", "each_point", "multimask", "everything"))
        opened = _open_yolo(model, options, prompted=bool(request.prompts))

        def find(image: ImageSource) -> Results:
            return _find_objects(opened, image, request)

        return Finder(opened.predictor.backend, opened.predictor.device, find, _print_objects)

    def rows(self, manifest: Manifest) -> dict[str, str]:
        """Return the task, classes, strides, input, suppression and I/O scheme."""
        return {} if manifest.yolo is None else _rows(manifest.yolo)

    def measured_at(self, manifest: Manifest) -> str:
        """Return the model's default size."""
        return "" if manifest.yolo is None else f" at {_by(manifest.yolo.image_size)} px"


def _open_yolo(model: str, options: OpenOptions, *, prompted: bool) -> YOLO:
    """Open a YOLO; with prompts, or if it is a FastSAM, as `FastSAM`."""
    from samedge.api.yolo import YOLO, FastSAM

    opened = YOLO(model, **asdict(options))
    info = opened.predictor.info
    if not prompted and (info is None or not info.model.name.startswith("fastsam")):
        return opened
    if opened.task != "segment":
        raise UsageError("prompts select masks, and this model has none", where=model, cure="Use a segmenter")
    opened.close()
    return FastSAM(model, **asdict(options))


def _find_objects(model: YOLO, image: ImageSource, request: PredictRequest) -> Results:
    """Return the objects in an image, or those selected by the prompts, if any."""
    from samedge.api.yolo import FastSAM

    given: dict[str, Any] = {"conf": request.conf, "iou": request.iou, "max_det": request.max_det}
    options = {name: value for name, value in given.items() if value is not None}
    options |= {"classes": list(request.classes or ()) or None, "agnostic_nms": request.agnostic_nms}
    options["imgsz"] = request.imgsz
    if isinstance(model, FastSAM):
        boxes, points, labels = list(request.boxes), list(request.points), list(request.labels)
        (results,) = model.predict(image, boxes or None, points or None, labels or None, **options)
    else:
        (results,) = model.predict(image, **options)
    return cast("Results", results)


def _print_objects(results: Results) -> None:
    """Print the image's name and size, on one unwrapped line, and a table of its objects."""
    from samedge.cli.tables import print_with_title
    from samedge.tables import rich_table

    columns = ("class", "score", "x1", "y1", "x2", "y2", *([] if results.masks is None else ["area, px"]))
    rows = []
    if results.boxes is not None:
        areas = [] if results.masks is None else [[str(int(mask.sum()))] for mask in results.masks.iter_masks()]
        for number, (*box, score, kind) in enumerate(results.boxes.data.tolist()):
            shown = [f"{side:.0f}" for side in box]
            rows.append((results.name_of(int(kind)), f"{score:.3f}", *shown, *(areas[number] if areas else [])))
    print_with_title(results, rich_table(None, columns, rows, right=range(1, 7)))


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
