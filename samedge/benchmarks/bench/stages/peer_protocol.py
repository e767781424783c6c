"""What ``samedge bench`` and the processes that it measures say to each other: JSON, one object a line.

Models of samedge and peers are measured in the same way: each is a process that reads requests on stdin and writes one
answer a request on stdout; what it writes to stderr is shown if it dies. Anything that can do so can be a peer, in any
language and under any licence, because nothing of it is imported: ``--peer NAME=COMMAND`` names it.

    {"do": "hello"}                        {"protocol": 1, "name": "...", "version": "...", "can": true}
                                           {"protocol": 1, "name": "...", "can": false, "reason": "... not installed"}
    {"do": "open", ...`Opening`}           `Opened`
    {"do": "run", "stage": "encode"}       `Ran`
    {"do": "close"}                        {}, and ends
    any                                    {"error": "a sentence"}

Unknown fields are to be ignored by both sides. A stage is done once on every picture, in their order, and the times are
those of the peer's own clock around it: what the peer is slow at beside the stage does not count.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from samedge.benchmarks.bench.records import Family, Stage

PROTOCOL: Final = 1


class Hello(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who answers, and whether it can work here.

    Attributes:
        protocol: `PROTOCOL`.
        name: What it is called.
        version: Its version, or its versions.
        can: Whether what it needs is installed.
        reason: Why not.
    """

    protocol: int
    name: str
    version: str = ""
    can: bool = True
    reason: str = ""


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What to load, and what will be asked.

    Attributes:
        name: Name of the row.
        family: "sam", "fastsam" or "yolo".
        architecture: Such as "sam_vit_b", "mobile_sam", "yolov8n-seg", "fastsam-s".
        source: The checkpoint: a path, a known name of samedge, or "seeded:NAME".
        weights: File of the same weights that torch reads: the checkpoint, or for seeded ones a state dict under the
            keys of the reference package (SAM), or with batch norms folded into ``conv.weight`` and ``conv.bias``
            (YOLO, FastSAM). Empty where there is none.
        artefact: Bundle or graph of samedge.
        plain: Folder of the plain export of the encoder; empty where there is none.
        plain_decoder: Folder of Meta's decoder.
        image_size: Side of the network's input, px.
        images: Paths of pictures.
        points: A click in each picture: (x, y), px.
        boxes: 32 boxes in each picture: (x1, y1, x2, y2), px.
        everything: Parameters of segment everything under Meta's names.
        mode: How samedge segments everything: "exact" or "fast".
        threads: CPU threads.
        backend: For samedge.
        device: "cpu", "cuda" ...; None for the default.
    """

    name: str
    family: Family
    architecture: str
    source: str
    images: tuple[str, ...]
    points: tuple[tuple[float, float], ...]
    boxes: tuple[tuple[tuple[float, float, float, float], ...], ...]
    image_size: int
    threads: int
    weights: str = ""
    artefact: str = ""
    plain: str = ""
    plain_decoder: str = ""
    everything: dict[str, Any] = {}
    mode: Literal["exact", "fast"] = "exact"
    backend: str = "auto"
    device: str | None = None


class Opened(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was loaded.

    Attributes:
        stages: What can be asked for, and what the time of each includes, as a sentence. "set_image" is "preprocess"
            and "encode" together, for those that cannot be asked for one alone.
        without: Why other stages cannot be asked for.
        image_stages: Stages that together are one picture from pixels to a mask, or to all of them.
        backend: What computes.
        device: Where.
        details: What else a report should say.
    """

    stages: dict[str, str]
    without: dict[str, str] = {}
    image_stages: tuple[Stage, ...] = ()
    backend: str = ""
    device: str = ""
    details: dict[str, str] = {}


class Ran(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stage, done once on every picture.

    Attributes:
        wall: Seconds, all pictures together.
        cpu: Seconds of processor time; None where it is not known.
        peak: The most resident bytes of the process so far; None where the system does not tell.
        device: Bytes on the device so far, where the peer knows; None where it does not.
        figures: Counts, all pictures together.
    """

    wall: float
    cpu: float | None = None
    peak: int | None = None
    device: int | None = None
    figures: dict[str, float] = {}
