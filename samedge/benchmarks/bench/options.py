"""How ``samedge bench`` measures, and what it is shown on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from samedge.benchmarks.bench.records import BOXES, Stage
from samedge.benchmarks.measure.artefacts import PICTURES
from samedge.benchmarks.measure.rounds import WARM_UPS
from samedge.errors import UsageError
from samedge.runtime.image.read import as_bgr

STAGE_COLUMNS: Final[tuple[Stage, ...]] = ("preprocess", "encode", "prompt", "boxes", "everything")
COLUMNS: Final = (
    "size", "params", "gflops", *STAGE_COLUMNS, "images", "rss", "device-memory", "energy", "iou", "backend", "parity",
)  # fmt: skip
"""What can be asked for, in the order of the table."""
WHOLE_IMAGE: Final = ("images", "energy")
"""Columns that need all stages of a picture."""

_SEED: Final = 32


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How to measure.

    Attributes:
        models: As `samedge.benchmarks.bench.sources.model_sources` takes them; none for the default rows.
        columns: Of `COLUMNS`; what no column needs is not measured.
        images: Paths of pictures; each call does its work once on each.
        rounds: Rounds that count.
        warm_ups: Rounds before them that do not.
        everything_rounds: Rounds of segment everything on SAM, which takes a thousand clicks a picture; it has one
            warm-up at most.
        everything_points: Points along each side of its grid.
        mode: How it is done: "exact" gives Meta's masks, "fast" most of them from fewer clicks.
        threads: CPU threads of everything that is measured.
        backend: As for `samedge.load`.
        device: As for `samedge.load`.
        peers: Measure the peers that are known here as well.
        peer_commands: Further peers by name: program and arguments.
        apart: Measure one model after the other, with its peers, where memory does not hold all at once.

    Raises:
        UsageError: A value that means nothing.
    """

    models: tuple[str, ...] = ()
    columns: tuple[str, ...] = COLUMNS
    images: tuple[str, ...] = tuple(str(path) for path in PICTURES)
    rounds: int = 5
    warm_ups: int = WARM_UPS
    everything_rounds: int = 3
    everything_points: int = 32
    mode: Literal["exact", "fast"] = "exact"
    threads: int = 1
    backend: str = "auto"
    device: str | None = None
    peers: bool = False
    peer_commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    apart: bool = False

    def __post_init__(self) -> None:
        for column in self.columns:
            if column not in COLUMNS:
                raise UsageError(
                    f"there is no column {column!r}", where="--columns", cure=f"Choose of: {', '.join(COLUMNS)}"
                )
        if self.mode not in ("exact", "fast"):
            raise UsageError(f"there is no mode {self.mode!r}", where="--mode", cure="Give exact or fast")
        least = {"rounds": 1, "warm_ups": 0, "everything_rounds": 1, "everything_points": 1, "threads": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{name} is {getattr(self, name)}", where=option, cure=f"Give {lowest} or more")
        if not self.images:
            raise UsageError("there is no picture to measure on", where="--image", cure="Name one")

    def wants(self, *columns: str) -> bool:
        """Whether one of the columns is asked for."""
        return bool(set(columns).intersection(self.columns))


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is asked about each picture.

    Attributes:
        points: A click: the middle.
        boxes: 32 boxes of all sizes from a tenth to a half of the picture, the same for every model.
    """

    points: tuple[tuple[float, float], ...]
    boxes: tuple[tuple[tuple[float, float, float, float], ...], ...]


def prompts_for(images: Sequence[str]) -> Prompts:
    """Return the prompts for pictures.

    Raises:
        ImageError: One cannot be read.
    """
    points, boxes = [], []
    for image in images:
        height, width = as_bgr(image).shape[:2]
        points.append((width / 2, height / 2))
        random = np.random.default_rng(_SEED)
        size = random.uniform(0.1, 0.5, (BOXES, 2)) * (width, height)
        corner = random.uniform(0, 1, (BOXES, 2)) * ((width, height) - size)
        drawn = np.concatenate([corner, corner + size], axis=1).round(1).tolist()
        boxes.append(tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in drawn))
    return Prompts(tuple(points), tuple(boxes))
