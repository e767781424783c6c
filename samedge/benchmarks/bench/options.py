"""Options and prompts of ``samedge bench``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from samedge.benchmarks.bench.records import BOXES, Stage
from samedge.benchmarks.measure.artefacts import IMAGES
from samedge.benchmarks.measure.rounds import WARM_UPS
from samedge.errors import UsageError
from samedge.runtime.image.read import as_bgr

STAGE_COLUMNS: Final[tuple[Stage, ...]] = ("preprocess", "encode", "prompt", "boxes", "everything")
COLUMNS: Final = (
    "size", "params", "gflops", *STAGE_COLUMNS, "images", "rss", "device-memory", "energy", "iou", "backend", "parity",
)  # fmt: skip
"""Available columns, in the order of the table."""
WHOLE_IMAGE: Final = ("images", "energy")
"""Columns that need all stages of an image."""

_SEED: Final = 32


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """Options of the measurement.

    Attributes:
        models: As for `samedge.benchmarks.bench.sources.model_sources`; none for the default rows.
        columns: Columns from `COLUMNS`; anything that no column needs is not measured.
        images: Image files; each call processes each of them once.
        everything_rounds: Rounds of segment everything on SAM, which takes a thousand clicks per image; it has at most
            one warm-up.
        everything_points: Points along each side of its grid.
        mode: "exact" gives Meta's masks, "fast" most of them from fewer clicks.
        threads: CPU threads of every model.
        backend: As for `samedge.load`, like `device`.
        peers: Also measure the built-in peers.
        peer_commands: Further peers by name: program and arguments.
        apart: Measure one model with its peers after another, if memory cannot hold all at once.

    Raises:
        UsageError: A value is invalid.
    """

    models: tuple[str, ...] = ()
    columns: tuple[str, ...] = COLUMNS
    images: tuple[str, ...] = tuple(str(path) for path in IMAGES)
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
                    f"unknown column {column!r}", where="--columns", cure=f"Choose from: {', '.join(COLUMNS)}"
                )
        if self.mode not in ("exact", "fast"):
            raise UsageError(f"unknown mode {self.mode!r}", where="--mode", cure="Give exact or fast")
        least = {"rounds": 1, "warm_ups": 0, "everything_rounds": 1, "everything_points": 1, "threads": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"invalid {name}: {getattr(self, name)}", where=option, cure=f"Give {lowest} or more")
        if not self.images:
            raise UsageError("no image given", where="--image", cure="Give at least one")

    def wants(self, *columns: str) -> bool:
        """Return True if any of the columns is requested."""
        return bool(set(columns).intersection(self.columns))


@dataclass(frozen=True, slots=True)
class Prompts:
    """Per image a click at its centre, and 32 boxes of a tenth to a half of its size, the same for every model; px."""

    points: tuple[tuple[float, float], ...]
    boxes: tuple[tuple[tuple[float, float, float, float], ...], ...]


def prompts_for(images: Sequence[str]) -> Prompts:
    """Return the prompts of images."""
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
