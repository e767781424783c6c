"""Interface between a family and the commands ``samedge predict`` and ``info``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from samedge.bundle.manifest import Manifest
    from samedge.families import Family
    from samedge.runtime.everything.parameters import EverythingOptions
    from samedge.runtime.image.read import ImageSource
    from samedge.runtime.image.value_range import ValueRange
    from samedge.runtime.results.results import Results


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """Keyword arguments of `samedge.load`."""

    backend: str
    device: str | None
    threads: int | None
    force: bool
    value_range: ValueRange


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """The request for each image; options not given are None, empty or False.

    Attributes:
        prompts: All prompts, as keyword arguments of `SAM.predict`.
        points: (x, y) in px.
        labels: One per point.
        boxes: (x1, y1, x2, y2) in px.
        masks: True if there are mask prompts.
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
        """Map the named attributes, as typed options, to True if given; "everything" stands for each of its options."""
        typed = {"masks": "mask", "boxes": "box", "points": "point", "classes": "class"}
        found: dict[str, bool] = {}
        for name in names:
            value = getattr(self, name)
            if name == "everything":
                found |= {f"--{option.replace('_', '-')}": True for option in value or ()}
            else:
                empty = isinstance(value, Sequence) and not value
                given = value is not None and value is not False and not empty
                found[f"--{typed.get(name, name).replace('_', '-')}"] = given
        return found


@dataclass(frozen=True, slots=True)
class Finder:
    """A model opened for ``samedge predict``: `find` returns an image's results, `show` prints them as a table."""

    backend: str
    device: str
    find: Callable[[ImageSource], Results]
    show: Callable[[Results], None]


class FamilyCommand(Protocol):
    """A family's part of the commands."""

    def open(self, model: str, request: PredictRequest, options: OpenOptions, /) -> Finder:
        """Open a bundle, or a graph file of this family; UsageError for options that the family does not support."""
        ...

    def rows(self, manifest: Manifest) -> dict[str, str]:
        """Return rows about input and outputs for ``samedge info``, by heading."""
        ...

    def measured_at(self, manifest: Manifest) -> str:
        """Return the size that operations were counted at, such as " at 640 x 640 px"; empty if there is only one."""
        ...


def command_of(family: Family) -> FamilyCommand:
    """Import a family's part of the commands."""
    return cast("FamilyCommand", family.make(family.command))


def input_row(manifest: Manifest) -> str:
    """Return the size and normalisation of an input of fixed size."""
    source = manifest.input
    stretched = ", each image stretched to 0..255" if source.stretched is True else ""
    return f"{source.image_size} px{stretched}, mean {source.pixel_mean}, std {source.pixel_std}"
