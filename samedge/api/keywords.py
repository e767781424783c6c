"""The keywords of Ultralytics' calls: one table of what `SAM`, `FastSAM`, `YOLO` and `SAMPredictor` do with each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from typing_extensions import TypedDict

from samedge.errors import UsageError
from samedge.runtime.everything.parameters import EverythingOptions

ImageSize: TypeAlias = "int | Sequence[int] | None"
Effect: TypeAlias = Literal["used", "neutral", "fixed"]
"""Used: it does what its name says. Neutral: it changes nothing here. Fixed: only one value is accepted."""


class CallKeywords(TypedDict, total=False):
    """Keyword arguments that the calls of all classes accept, besides their own; see `KEYWORDS`."""

    device: object
    imgsz: ImageSize
    max_det: int
    classes: int | Sequence[int] | None
    retina_masks: bool
    agnostic_nms: bool
    rect: bool
    batch: int
    half: bool
    verbose: bool
    save: bool
    save_txt: bool
    save_conf: bool
    save_crop: bool
    save_frames: bool
    show: bool
    project: str | None
    name: str | None
    exist_ok: bool
    line_width: float | None
    show_labels: bool
    show_conf: bool
    show_boxes: bool
    vid_stride: int
    stream_buffer: bool
    augment: bool
    visualize: bool
    embed: Sequence[int] | None
    task: str | None


class DetectKeywords(CallKeywords, total=False):
    """Keyword arguments of `YOLO.predict`, besides `stream`."""

    conf: float | None
    iou: float
    mode: Literal["predict"]


class SegmentKeywords(CallKeywords, EverythingOptions, total=False):
    """Keyword arguments of `SAM.predict`, besides prompts and `stream`."""

    conf: float | None
    multimask_output: bool


@dataclass(frozen=True, slots=True)
class Keyword:
    """A row of the table: the effects on SAM, and on YOLO and FastSAM."""

    sam: Effect
    yolo: Effect
    meaning: str


def _both(effect: Effect, meaning: str) -> Keyword:
    return Keyword(effect, effect, meaning)


KEYWORDS: Final[Mapping[str, Keyword]] = {
    "conf": _both("used", "minimum score of a mask or box"),
    "iou": _both("used", "overlap above which the lower-scoring object is dropped; for SAM without prompts"),
    "max_det": Keyword("neutral", "used", "maximum number of objects"),
    "classes": Keyword("neutral", "used", "classes to keep: a number or a list"),
    "agnostic_nms": Keyword("neutral", "used", "suppression across classes"),
    "imgsz": Keyword("fixed", "used", "size of the input: a SAM has one size"),
    "rect": Keyword("neutral", "used", "less padding"),
    "retina_masks": Keyword("neutral", "used", "size at which empty masks are dropped; masks have the image's size"),
    "batch": Keyword("neutral", "used", "images at a time"),
    "device": _both("used", "cpu, cuda, cuda:1, or the number of a GPU"),
    "stream": _both("used", "a generator in place of a list"),
    "save": _both("used", "write the images with masks and boxes"),
    "save_txt": _both("used", "write labels in YOLO's format"),
    "save_conf": _both("used", "write scores into the labels"),
    "save_crop": _both("used", "write the part of the image around each box"),
    "show": _both("used", "open the images in the system's viewer"),
    "project": _both("used", "folder of runs: an absolute path, or a name in runs/<task>"),
    "name": _both("used", "name of the run, by default predict"),
    "exist_ok": _both("used", "write into the folder of an earlier run"),
    "line_width": _both("used", "width of lines that save and show draw, px"),
    "show_labels": _both("used", "draw labels"),
    "show_conf": _both("used", "draw scores"),
    "show_boxes": _both("used", "draw boxes"),
    "task": _both("fixed", "the model's task"),
    "mode": _both("fixed", "predict; for SAM without prompts also exact or fast"),
    "half": _both("neutral", "the precision is that of the export"),
    "verbose": _both("neutral", "nothing is printed"),
    "save_frames": _both("used", "write the frames of videos as images too"),
    "vid_stride": _both("used", "of videos, only each n-th frame is read"),
    "stream_buffer": _both("used", "of cameras, every frame is read; otherwise the newest"),
    "augment": _both("fixed", "False: there is no test-time augmentation"),
    "visualize": _both("fixed", "False: features are not drawn"),
    "embed": _both("fixed", "None: embeddings of layers are not returned"),
}
"""Ultralytics' keywords."""

_MODES: Final[dict[str, tuple[str, ...]]] = {"sam": ("exact", "fast"), "yolo": ()}
"""Modes of everything, by family."""
_REFUSED: Final[Mapping[str, str]] = {
    "augment": "test-time augmentation is not supported",
    "visualize": "drawing of features is not supported",
    "embed": "embeddings of layers are not returned",
}
OUTPUT: Final[tuple[str, ...]] = (
    "save", "save_txt", "save_conf", "save_crop", "save_frames", "show", "project", "name", "exist_ok", "line_width",
    "show_labels", "show_conf", "show_boxes",
)  # fmt: skip
"""Keywords of what is written and shown."""


def taken_out(keywords: dict[str, Any], names: Sequence[str] = OUTPUT) -> dict[str, Any]:
    """Take keywords out of a dictionary and return them."""
    return {name: keywords.pop(name) for name in names if name in keywords}


def keywords_in_use(given: Mapping[str, Any], family: Literal["sam", "yolo"], task: str) -> dict[str, Any]:
    """Return the keywords that a model uses, without those that change nothing here; unknown ones are kept.

    Args:
        given: Keywords of a call.
        family: Column of the table.
        task: The model's task, in which a call may name it.

    Raises:
        UsageError: A value would change the result in a way that is not supported.
    """
    used: dict[str, Any] = {}
    for name, value in given.items():
        row = KEYWORDS.get(name)
        if name in _REFUSED and value is not None and value is not False:
            raise UsageError(_REFUSED[name], where=name, cure="Leave it out")
        if name == "task":
            if value not in (None, task):
                cure = "Leave it out, or open a model of that task"
                raise UsageError(f"the requested task is {value}, but the model's task is {task}", cure=cure)
        elif name == "mode" and value in ("predict", None):
            continue
        elif name == "mode" and value not in _MODES[family]:
            cure = f"Give predict{''.join(f', {mode}' for mode in _MODES[family])}, or leave it out"
            raise UsageError(f"a call cannot run mode {value!r}", where="mode", cure=cure)
        elif row is None or (name not in _REFUSED and getattr(row, family) != "neutral"):
            used[name] = value
    return used


def class_numbers(classes: int | Sequence[int] | None) -> Sequence[int] | None:
    """Return the classes as a list; one number is a list of one."""
    if isinstance(classes, (int, np.integer)):
        return [int(classes)]
    return classes


def device_name(device: object) -> str | None:
    """Return samedge's name of a device: 0 and "0" are "cuda:0", "" is None; a torch.device is read by its name.

    Raises:
        UsageError: Several devices are named.
    """
    if isinstance(device, (list, tuple)) or "," in str(device):
        numbers = list(device) if isinstance(device, (list, tuple)) else str(device).split(",")
        if len(numbers) != 1:
            raise UsageError(f"one call runs on one device, not on {numbers}", where="device", cure="Give one of them")
        device = numbers[0]
    name = "" if device is None else str(device).strip()
    return (f"cuda:{int(name)}" if name.isdecimal() else name) or None
