"""Uniform interface to the sources of boxes: a YOLO model, a function, or a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeGuard

import numpy as np

from samedge.annotation.boxes_file import BoxesFile
from samedge.annotation.proposals import Category, Proposals, read_proposals
from samedge.api.yolo import YOLO
from samedge.bundle.manifest import MANIFEST_NAME
from samedge.errors import UsageError
from samedge.runtime.image.value_range import ValueRange
from samedge.storage.files import sha256_file
from samedge.types import Array, ImageArray

DetectorFunction: TypeAlias = Callable[[ImageArray], Any]
"""A function of a BGR uint8 image ``(H, W, 3)`` that returns (boxes, classes) or (boxes, classes, scores), a mapping
with these names, `Results` or a list of one, or None."""
DetectorLike: TypeAlias = "str | os.PathLike[str] | YOLO | DetectorFunction"
Names: TypeAlias = "Mapping[int, str] | Sequence[str] | None"

MODEL_SIDE: Final = 640
"""Default of ``imgsz``: the size that YOLOv8 was trained at. Graphs of another fixed size use their own."""


@dataclass(frozen=True, slots=True)
class DetectOptions:
    """Selection of the proposed boxes; see `samedge.auto_annotate`."""

    conf: float
    iou: float
    imgsz: int | tuple[int, int]
    max_det: int
    classes: Collection[int] | None


class Detector:
    """A source of boxes, queried one image at a time.

    Attributes:
        categories: The classes of its boxes.
        settings: Its identity, as JSON values: with other settings, boxes may differ.
    """

    categories: Sequence[Category]
    settings: Mapping[str, object]

    def propose(self, image: ImageArray, name: str) -> Proposals:
        """Return the boxes of a BGR uint8 image ``(H, W, 3)``, whose name is its path in the folder, with slashes."""
        raise NotImplementedError

    def remember(self, name: str) -> None:
        """Register an image finished by an earlier run."""

    def close(self) -> None:
        """Release the resources it opened."""


def open_detector(
    source: DetectorLike,
    options: DetectOptions,
    *,
    names: Names = None,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    force: bool = False,
    value_range: ValueRange = None,
) -> Detector:
    """Return the detector for a source, the ``det_model`` of `samedge.auto_annotate`.

    `names` are the class names of a function, or replace a YOLO model's; the other arguments are those of `YOLO`.
    """
    class_names = _names(names)
    if _is_open(source):
        return YoloDetector(source, options, class_names, owned=False)
    if isinstance(source, (str, os.PathLike)):
        if Path(source).suffix.lower() == ".json" and Path(source).name != MANIFEST_NAME:
            return FileDetector(Path(source), options)
        model = YOLO(source, backend=backend, device=device, threads=threads, force=force, value_range=value_range)
        return YoloDetector(model, options, class_names, owned=True)
    if callable(source):
        return FunctionDetector(source, options, class_names)
    raise UsageError(
        f"a {type(source).__name__} cannot propose boxes",
        where="det_model",
        cure="Give a YOLO model, a function of an image, or a JSON file of boxes",
    )


def _is_open(source: DetectorLike) -> TypeGuard[YOLO]:
    """Return True for an opened model, which has a predictor."""
    return hasattr(source, "predictor")


class YoloDetector(Detector):
    """A YOLOv8 detector, or a segmenter used for its boxes."""

    def __init__(self, model: YOLO, options: DetectOptions, names: Mapping[int, str], *, owned: bool) -> None:
        self._model, self._options, self._owned = model, options, owned
        graph = model.predictor.graph
        names = names or graph.names
        self.categories = [Category(number, number, name) for number, name in sorted(names.items())]
        fixed = graph.fixed_size and options.imgsz == MODEL_SIDE
        self._imgsz = None if fixed else options.imgsz
        self.settings = {
            "detector": "yolo",
            "detector_file": identity_of(model.model),
            "imgsz": list(graph.image_size) if fixed else options.imgsz,
        }

    def propose(self, image: ImageArray, name: str) -> Proposals:
        """Return the boxes that pass the score threshold and non-maximum suppression."""
        options = self._options
        classes = None if options.classes is None else list(options.classes)
        (results,) = YOLO.predict(  # not FastSAM's, which selects by prompts
            self._model, image, conf=options.conf, iou=options.iou, imgsz=self._imgsz, max_det=options.max_det,
            classes=classes,
        )  # fmt: skip
        return _of_results(results, {}, name)

    def close(self) -> None:
        """Close the model if this detector opened it."""
        if self._owned:
            self._model.close()


class FunctionDetector(Detector):
    """A function of an image. Its boxes are not suppressed."""

    def __init__(self, function: DetectorFunction, options: DetectOptions, names: Mapping[int, str]) -> None:
        self._function, self._options = function, options
        self._names = names or _names(getattr(function, "names", None))
        self.categories = [Category(number, number, name) for number, name in sorted(self._names.items())]
        named = function if hasattr(function, "__qualname__") else type(function)
        self.settings = {"detector": "function", "detector_name": f"{named.__module__}.{named.__qualname__}"}

    def propose(self, image: ImageArray, name: str) -> Proposals:
        """Return the validated boxes of the function."""
        options = self._options
        proposals = _parse_result(self._function(image), self._names, name)
        return proposals.chosen(options.conf, options.max_det, options.classes)


class FileDetector(Detector):
    """Boxes stored in a file. They are not suppressed."""

    def __init__(self, path: Path, options: DetectOptions) -> None:
        self._file, self._options = BoxesFile(path), options
        self.categories = self._file.categories
        self.settings = {"detector": "boxes", "detector_file": identity_of(str(path))}

    def propose(self, image: ImageArray, name: str) -> Proposals:
        """Return the boxes of the image's entry."""
        options = self._options
        return self._file.boxes_of(name).chosen(options.conf, options.max_det, options.classes)

    def remember(self, name: str) -> None:
        """Reserve the image's entry, which no other image of the same name may use."""
        self._file.claim(name)


def identity_of(source: str) -> str:
    """Return the SHA-256 of a file or of a bundle's manifest; a name that is not a path is returned unchanged."""
    path = Path(source)
    if (path / MANIFEST_NAME).is_file():
        path = path / MANIFEST_NAME
    return sha256_file(path) if path.is_file() else source


def _names(names: object) -> dict[int, str]:
    if names is None:
        return {}
    if isinstance(names, Mapping):
        return {int(number): str(name) for number, name in names.items()}
    if isinstance(names, Sequence) and not isinstance(names, str):
        return {number: str(name) for number, name in enumerate(names)}
    raise UsageError(f"invalid names: {type(names).__name__}", cure="Give a list, or a mapping from number to name")


def _parse_result(result: Any, names: Mapping[int, str], where: str) -> Proposals:
    if isinstance(result, list) and len(result) == 1 and hasattr(result[0], "boxes"):
        result = result[0]
    if result is None:
        return read_proposals([], [], names=names, where=where)
    if hasattr(result, "boxes"):
        return _of_results(result, names, where)
    if isinstance(result, Mapping):
        result = (result.get("boxes"), result.get("classes"), result.get("scores"))
    if not isinstance(result, (tuple, list)) or len(result) not in (2, 3):
        raise UsageError(
            f"the detector returned a {type(result).__name__}",
            where=where,
            cure="Return (boxes, classes) or (boxes, classes, scores)",
        )
    return read_proposals(*result, names=names, where=where)


def _of_results(results: Any, names: Mapping[int, str], where: str) -> Proposals:
    """Read samedge's `Results`, or any object of the same form, including one that holds torch tensors."""
    boxes = results.boxes
    if boxes is None:
        return read_proposals([], [], names=names, where=where)
    return read_proposals(_host(boxes.xyxy), _host(boxes.cls), _host(boxes.conf), names=names, where=where)


def _host(values: Any) -> Array:
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values)
