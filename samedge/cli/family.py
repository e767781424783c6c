"""The side of a family that ``samedge predict`` and ``info`` see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from samedge.bundle.manifest import Manifest
    from samedge.families import Family
    from samedge.runtime.everything.parameters import EverythingOptions
    from samedge.runtime.results.results import Results


@dataclass(frozen=True, slots=True)
class Place:
    """Backend, device and threads that a model is opened with.

    Attributes:
        backend: Its name, or "auto".
        device: Its name; None lets the backend choose.
        threads: CPU threads; None for all physical cores.
        force: A bundle that failed its parity check as well.
    """

    backend: str
    device: str | None
    threads: int | None
    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for each image; what was not given is None, empty or False.

    Attributes:
        prompts: All prompts, as `samedge.SAM` takes them.
        points: (x, y) in px.
        labels: One a point.
        boxes: (x1, y1, x2, y2) in px.
        masks: Whether there are masks among the prompts.
        each_point: Each point is an object of its own.
        multimask: Three masks a prompt.
        conf: Keep what scores more.
        everything: Options of segmenting everything.
        iou: Overlap from which a box is dropped.
        max_det: Objects an image at most.
        classes: Numbers of classes to keep.
        agnostic_nms: Drop boxes that overlap across classes.
        imgsz: Side of the input, px.
    """

    prompts: Mapping[str, Any] = field(default_factory=dict)
    points: Sequence[Sequence[float]] = ()
    labels: Sequence[int] = ()
    boxes: Sequence[Sequence[float]] = ()
    masks: bool = False
    each_point: bool = False
    multimask: bool = False
    conf: float | None = None
    everything: EverythingOptions | None = None
    iou: float | None = None
    max_det: int | None = None
    classes: Sequence[int] | None = None
    agnostic_nms: bool = False
    imgsz: int | None = None

    def given(self, *names: str) -> dict[str, bool]:
        """Return options as they are typed, and whether they were given.

        Args:
            names: Of attributes; "everything" stands for each of its options.
        """
        typed = {"masks": "mask", "boxes": "box", "points": "point", "classes": "class"}
        found: dict[str, bool] = {}
        for name in names:
            value = getattr(self, name)
            if name == "everything":
                found |= {f"--{option.replace('_', '-')}": True for option in value or ()}
            else:
                option = typed.get(name, name).replace("_", "-")
                empty = isinstance(value, Sequence) and not value
                found[f"--{option}"] = value is not None and value is not False and not empty
        return found


class Finder(Protocol):
    """A model that was opened for ``samedge predict``."""

    @property
    def backend(self) -> str:
        """The backend that it got."""
        ...

    @property
    def device(self) -> str:
        """The device that it got."""
        ...

    def find(self, image: Path) -> Results:
        """Return what was asked for of one image.

        Raises:
            SamedgeError: A prompt or the image cannot be used.
        """
        ...

    def show(self, results: Results) -> None:
        """Write results to stdout as a table."""
        ...


class FamilyCommand(Protocol):
    """The commands' side of a family."""

    def open(self, model: str, asked: Asked, place: Place) -> Finder:
        """Open a bundle, or a graph file of this family.

        Raises:
            UsageError: An option means nothing for this family.
            SamedgeError: As `samedge.load`.
        """
        ...

    def rows(self, manifest: Manifest) -> dict[str, str]:
        """Return what ``samedge info`` says of the model's input and outputs, by heading."""
        ...

    def measured_at(self, manifest: Manifest) -> str:
        """Return at which size the operations were counted, such as " at 640 x 640 px"; empty where there is one."""
        ...


def command_of(family: Family) -> FamilyCommand:
    """Import the commands' side of a family."""
    return cast("FamilyCommand", family.make(family.command))
