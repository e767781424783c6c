"""Contenders and rows that nobody measured, for tests of what is made of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from samedge.benchmarks.bench.contenders import Contender
from samedge.benchmarks.bench.records import (
    KIND,
    SCHEMA,
    BenchReport,
    Energy,
    MaskAgreement,
    ModelRow,
    Stage,
    StageResult,
)
from samedge.benchmarks.bench.stages.peer_protocol import OpenRequest
from samedge.benchmarks.bench.stages.prepare import PreparedModel
from samedge.benchmarks.measure.rounds import spread_of

SCRIPT = Path(__file__).with_name("fake_peer.py")
IMAGES = ("a.png", "b.png")


def command(kind: str, log: Path | None = None) -> tuple[str, ...]:
    """How the fake peer is started."""
    return (sys.executable, str(SCRIPT), kind, *([] if log is None else [str(log)]))


def opening(name: str) -> OpenRequest:
    """What it is asked for."""
    return OpenRequest(
        name=name,
        family="sam",
        architecture="sam_vit_tiny",
        source="nothing.pt",
        images=IMAGES,
        points=((1.0, 1.0), (2.0, 2.0)),
        boxes=(((0.0, 0.0, 1.0, 1.0),), ((0.0, 0.0, 2.0, 2.0),)),
        image_size=128,
        threads=1,
    )


def contender(name: str, kind: str = "good", *, peer_of: str = "", log: Path | None = None, **facts: Any) -> Contender:
    """A fake peer, or a fake model where it is nobody's peer."""
    prepared = None
    if not peer_of:
        prepared = PreparedModel(
            family="sam", architecture="sam_vit_tiny", artefact="nowhere", image_size=128, size_bytes=10, seeded=True
        )
    row = ModelRow(name=name, source="nothing.pt", family="sam", peer_of=peer_of, **facts)
    return Contender(row, command(kind, log), opening(name), prepared)


def stage(*milliseconds: float, peak: int | None = 2_000_000, **figures: float) -> StageResult:
    """A stage of these rounds."""
    seconds = tuple(value / 1e3 for value in milliseconds)
    return StageResult(
        includes="what it includes",
        wall=spread_of(seconds),
        cpu=spread_of(seconds),
        figures=figures,
        peak_bytes=peak,
        rounds=seconds,
    )


def model_row(name: str = "SAM-b", **changes: Any) -> ModelRow:
    """A model of which everything was measured."""
    stages: dict[Stage, StageResult] = {
        "preprocess": stage(10, 10, 10),
        "encode": stage(800, 800, 800),
        "prompt": stage(90, 90, 90, masks=2),
        "boxes": stage(400, 400, 400, masks=64),
        "everything": stage(30_000, 30_000, 30_000, peak=900_000_000, decoder_prompts=2048, decoder_calls=128),
    }
    row = ModelRow(
        name=name,
        source="sam_b.pt",
        family="sam",
        size_bytes=375_000_000,
        parameters=93_735_472,
        gflops=741.5,
        prompt_gflops=3.2,
        stages=stages,
        images_per_second=spread_of([1 / 0.9] * 3),
        image_stages=("preprocess", "encode", "prompt"),
        device_memory=None,
        energy=Energy(4.5, 15.0, 4, "RAPL (package-0)"),
        mask_agreement=MaskAgreement(0.9912, 0.9999, "probe set"),
        backend="onnxruntime",
        device="cpu",
        details={"providers": "CPUExecutionProvider", "threads": "2"},
        precision="fp32",
        verdict="passed",
        empty={"device-memory": "it runs on the CPU"},
        notes=("a sentence",),
    )
    return msgspec.structs.replace(row, **changes)


def peer_row(own: str = "SAM-b", **changes: Any) -> ModelRow:
    """A peer that takes twice as long to encode, and half as long for a click."""
    row = ModelRow(
        name=f"{own}: meta",
        source="sam_b.pt",
        family="sam",
        peer_of=own,
        version="segment-anything 1.0",
        stages={"encode": stage(1600, 1600, 1600), "prompt": stage(45, 45, 45)},
        ratios={"encode": spread_of([2.0] * 3), "prompt": spread_of([0.5] * 3), "set_image": spread_of([2.2] * 3)},
    )
    return msgspec.structs.replace(row, **changes)


def report(*rows: ModelRow, **machine: str) -> BenchReport:
    """A report of rows, on a machine."""
    facts = {"processor": "a fast one", "cores": "2", "architecture": "x86_64", "system": "Linux", "memory": "8 GB"}
    settings = {"threads": "2", "images": "a.png 00, b.png 11", "pictures": "2", "mode": "exact"}
    return BenchReport(KIND, SCHEMA, {**facts, **machine}, {"cpu governor": "performance"}, settings, rows)
