"""The protocol between ``samedge bench`` and the processes that it measures: JSON, one object per line.

Models of samedge and peers are measured in the same way: each is a process that reads requests from stdin and writes
one reply per request to stdout; its stderr is shown if it dies. Any program that does so can be a peer, in any language
and under any licence, because none of it is imported: pass it as ``--peer NAME=COMMAND``.

    {"do": "hello"}                        {"protocol": 1, "name": "...", "version": "...", "can": true}
                                           {"protocol": 1, "name": "...", "can": false, "reason": "... not installed"}
    {"do": "open", ...`OpenRequest`}       `OpenedModel`
    {"do": "run", "stage": "encode"}       `StageTiming`
    {"do": "close"}                        {}, then the process ends
    any                                    {"error": "a sentence"}

Both sides ignore unknown fields. A stage runs once on every image, in order, and is timed by the peer's own clock: time
that the peer spends outside the stage does not count.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from samedge.benchmarks.bench.records import Family, Stage

PROTOCOL: Final = 1


class Capabilities(msgspec.Struct, frozen=True, omit_defaults=True):
    """Identity and availability of a process.

    Attributes:
        protocol: `PROTOCOL`.
        name: Its name.
        version: Its version, or those of its packages.
        can: True if its requirements are installed.
        reason: Reason if not.
    """

    protocol: int
    name: str
    version: str = ""
    can: bool = True
    reason: str = ""


class OpenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Model to load, with the images and prompts of the stages.

    Attributes:
        name: Name of the row.
        family: "sam", "fastsam" or "yolo".
        architecture: For example "sam_vit_b", "mobile_sam", "yolov8n-seg" or "fastsam-s".
        source: The checkpoint: a path, a known name of samedge, or "seeded:NAME".
        weights: File of the same weights for torch: the checkpoint, or for seeded weights a state dict under the keys
            of the reference package (SAM), or with batch norms folded into ``conv.weight`` and ``conv.bias`` (YOLO,
            FastSAM). Empty if there is none.
        artefact: Bundle or graph of samedge.
        plain: Folder of the plain export of the encoder; empty if there is none.
        plain_decoder: Folder of Meta's decoder.
        image_size: Side of the network's input, px.
        images: Image files.
        points: One click per image: (x, y), px.
        boxes: 32 boxes per image: (x1, y1, x2, y2), px.
        everything: Parameters of segment everything under Meta's names.
        mode: samedge's mode of segment everything: "exact" or "fast".
        threads: CPU threads.
        backend: Backend of samedge.
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


class OpenedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Description of a loaded model.

    Attributes:
        stages: Supported stages, each with a description of the work that its time includes. "set_image" is
            "preprocess" and "encode" together, for peers that cannot separate them.
        without: Reasons for unsupported stages.
        image_stages: Stages that together take one image from pixels to a mask, or to all masks.
        backend: The backend.
        device: The device.
        details: Further facts for the report.
    """

    stages: dict[str, str]
    without: dict[str, str] = {}
    image_stages: tuple[Stage, ...] = ()
    backend: str = ""
    device: str = ""
    details: dict[str, str] = {}


class StageTiming(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run of a stage on every image.

    Attributes:
        wall: Seconds, over all images.
        cpu: CPU seconds; None if unknown.
        peak: Peak resident memory of the process so far, bytes; None if unavailable.
        device: Bytes on the device so far; None if unknown.
        figures: Counts, over all images.
    """

    wall: float
    cpu: float | None = None
    peak: int | None = None
    device: int | None = None
    figures: dict[str, float] = {}
