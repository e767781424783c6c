"""Who proposes boxes: a YOLO model, a function, or a file; all of them asked in one way."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeGuard

import numpy as np

from samedge.annotation.boxes_file import BoxesFile
from samedge.annotation.proposals import Category, Proposals, read_proposals
from samedge.api.yolo import YOLO
from samedge.bundle.manifest import MANIFEST_NAME
from samedge.errors import UsageError
from samedge.storage.digest import sha256_file
from samedge.types import Array, ImageArray

DetectorFunction: TypeAlias = Callable[[ImageArray], Any]
"""Given BGR uint8 ``(H, W, 3)``; returns (boxes, classes) or (boxes, classes, scores), a mapping with these names,
`Results` or a list of one, or None."""
DetectorLike: TypeAlias = "str | os.PathLike[str] | YOLO | DetectorFunction"
Names: TypeAlias = "Mapping[int, str] | Sequence[str] | None"

MODEL_SIDE: Final = 640
"""The known default of ``imgsz``: what YOLOv8 was trained at. Graphs of one other size take theirs."""


@dataclass(frozen=True, slots=True)
class DetectOptions:
    """Which boxes are proposed; see `samedge.auto_annotate`."""

    conf: float
    iou: float
    imgsz: int | tuple[int, int]
    max_det: int
    classes: Collection[int] | None


class Detector(Protocol):
    """Proposes boxes for one image after the other."""

    @property
    def categories(self) -> Sequence[Category]:
        """The classes that it knows."""
        ...

    @property
    def settings(self) -> Mapping[str, object]:
        """What it is, as JSON: two that differ may propose other boxes."""
        ...

    def propose(self, image: ImageArray, name: str) -> Proposals:
        """Return the boxes of an image.

        Args:
            image: BGR uint8 ``(H, W, 3)``.
            name: Path of the image in its folder, with slashes.

        Raises:
            SamedgeError: The image has none because something failed.
        """
        ...

    def remember(self, name: str) -> None:
        """Told of each image that an earlier run has done."""
        ...

    def close(self) -> None:
        """Free what it opened."""
        ...


def open_detector(
    source: DetectorLike,
    options: DetectOptions,
    *,
    names: Names = None,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    force: bool = False,
) -> Detector:
    """Return the detector that somebody named.

    Args:
        source: A YOLO or what one is made of; a ``.json`` file of boxes; or a function.
        options: Which boxes are proposed.
        names: Names of the classes of a function, or other names for a YOLO's.
        backend: What runs a YOLO.
        device: Where.
        threads: CPU threads.
        force: Run a graph that failed its parity check as well.

    Raises:
        UsageError: It is none of these.
        SamedgeError: It cannot be opened.
    """
    told = _names(names)
    if _is_opened(source):
        return YoloDetector(source, options, told, owned=False)
    if isinstance(source, (str, os.PathLike)):
        if Path(source).suffix.lower() == ".json" and Path(source).name != MANIFEST_NAME:
            return FileDetector(Path(source), options)
        model = YOLO(source, backend=backend, device=device, threads=threads, force=force)
        return YoloDetector(model, options, told, owned=True)
    if callable(source):
        return FunctionDetector(source, options, told)
    raise UsageError(
        f"a {type(source).__name__} cannot propose boxes",
        where="det_model",
        cure="Give a YOLO model, a function of an image, or a JSON file of boxes",
    )


def _is_opened(source: DetectorLike) -> TypeGuard[YOLO]:
    """Return whether a source is a model already, which has a predictor, and not what one is made of."""
    return hasattr(source, "predictor")


class YoloDetector:
    """A YOLOv8 detector or segmenter; of a segmenter, the boxes."""

    def __init__(self, model: YOLO, options: DetectOptions, names: Mapping[int, str], *, owned: bool) -> None:
        self._model, self._options, self._owned = model, options, owned
        graph = model.predictor.graph
        names = names or graph.names
        self.categories = [Category(number, number, name) for number, name in sorted(names.items())]
        fixed = graph.fixed_size and options.imgsz == MODEL_SIDE
        self._imgsz = None if fixed else options.imgsz
        self.settings: Mapping[str, object] = {
            "detector": "yolo",
            "detector_file": identity_of(model.model),
            "imgsz": list(graph.image_size) if fixed else options.imgsz,
        }

    def propose(self, image: ImageArray, name: str) -> Proposals:
        """Return the boxes that score well enough and do not overlap a better one."""
        options = self._options
        classes = None if options.classes is None else list(options.classes)
        (results,) = YOLO.predict(
            self._model,
            image,
            conf=options.conf,
            iou=options.iou,
            imgsz=self._imgsz,
            max_det=options.max_det,
            classes=classes,
        )
        return _of_results(results, {}, name)

    def remember(self, name: str) -> None:
        """Nothing: images do not depend on each other."""

    def close(self) -> None:
        """Free the graph, if it was opened here."""
        if self._owned:
            self._model.close()


class FunctionDetector:
    """A function of an image. Its boxes are not suppressed: it knows which ones it means."""

    def __init__(self, function: DetectorFunction, options: DetectOptions, names: Mapping[int, str]) -> None:
        self._function, self._options = function, options
        told = names or _names(getattr(function, "names", None))
        self._names = told
        self.categories = [Category(number, number, name) for number, name in sorted(told.items())]
        kind = function if hasattr(function, "__qualname__") else type(function)
        self.settings: Mapping[str, object] = {
            "detector": "function",
            "detector_name": f"{kind.__module__}.{kind.__qualname__}",
        }

    def propose(self, image: ImageArray, name: str) -> Proposals:
        """Return what the function says, checked."""
        options = self._options
        found = _of_answer(self._function(image), self._names, name)
        return found.chosen(options.conf, options.max_det, options.classes)

    def remember(self, name: str) -> None:
        """Nothing: images do not depend on each other."""

    def close(self) -> None:
        """Nothing: the function is the caller's."""


class FileDetector:
    """Boxes that lie in a file. They are not suppressed."""

    def __init__(self, path: Path, options: DetectOptions) -> None:
        self._file, self._options = BoxesFile(path), options
        self.categories = self._file.categories
        self.settings: Mapping[str, object] = {"detector": "boxes", "detector_file": identity_of(str(path))}

    def propose(self, image: ImageArray, name: str) -> Proposals:
        """Return the boxes of the image's entry."""
        options = self._options
        return self._file.boxes_of(name).chosen(options.conf, options.max_det, options.classes)

    def remember(self, name: str) -> None:
        """Let no other image of the same name have the entry."""
        self._file.claim(name)

    def close(self) -> None:
        """Nothing is open."""


def identity_of(source: str) -> str:
    """Return the SHA-256 of a file, of a bundle that of its manifest; a name that is no path as it is."""
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
    raise UsageError(f"names are a {type(names).__name__}", cure="Give a list, or a mapping from number to name")


def _of_answer(answer: Any, names: Mapping[int, str], where: str) -> Proposals:
    if isinstance(answer, list) and len(answer) == 1 and hasattr(answer[0], "boxes"):
        answer = answer[0]
    if answer is None:
        return read_proposals([], [], names=names, where=where)
    if hasattr(answer, "boxes"):
        return _of_results(answer, names, where)
    if isinstance(answer, Mapping):
        answer = (answer.get("boxes"), answer.get("classes"), answer.get("scores"))
    if not isinstance(answer, (tuple, list)) or len(answer) not in (2, 3):
        raise UsageError(
            f"the detector returned a {type(answer).__name__}",
            where=where,
            cure="Return (boxes, classes) or (boxes, classes, scores)",
        )
    return read_proposals(*answer, names=names, where=where)


def _of_results(results: Any, names: Mapping[int, str], where: str) -> Proposals:
    """Take our own results, and others of the same shape, also where they lie in torch's tensors."""
    boxes = results.boxes
    if boxes is None:
        return read_proposals([], [], names=names, where=where)
    return read_proposals(_host(boxes.xyxy), _host(boxes.cls), _host(boxes.conf), names=names, where=where)


def _host(values: Any) -> Array:
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values)
