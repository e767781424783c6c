"""Preparation of a model in a child process: export into the cache if needed, and description.

This child may import torch; the measured processes must not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from samedge.api.cached import cached_bundle
from samedge.api.load import load
from samedge.api.sam import is_bundle
from samedge.api.yolo import GRAPH_SUFFIXES
from samedge.benchmarks.bench.records import Family, MaskAgreement
from samedge.bundle.archive import open_bundle
from samedge.bundle.manifest import Manifest
from samedge.engines.onnx_header import read_onnx_metadata
from samedge.runtime.yolo.graph import DEFAULT_IMAGE_SIZE, PARITY
from samedge.types import Verdict

FAST_SAM: Final = "fastsam"
_GRAPH_ALONE: Final = "not recorded in a graph file"
_ANCHORS: Final = "probe set, the 20 best anchors"


class PreparedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be measured.

    Attributes:
        family: "sam", "fastsam" or "yolo".
        architecture: For example "sam_vit_b" or "yolov8n-seg".
        artefact: Path of the bundle or graph.
        image_size: Side of the input, px.
        size_bytes: Bytes of its files.
        parameters: Number of parameters; None if unknown.
        gflops: 1e9 operations of the encoder, or of the whole network, on one image.
        prompt_gflops: 1e9 operations of one prompt.
        precision: Precision of the encoder.
        seeded: The weights are random.
        verdict: Parity of the export.
        recorded: Mask agreement recorded by the export; None if it made no comparison.
        checkpoint: Checkpoint to compare with in torch; empty for a bundle or graph.
        empty: Reasons for unknown values, by column.
    """

    family: Family
    architecture: str
    artefact: str
    image_size: int
    size_bytes: int
    parameters: int | None = None
    gflops: float | None = None
    prompt_gflops: float | None = None
    precision: str = "fp32"
    seeded: bool = False
    verdict: Verdict = "unchecked"
    recorded: MaskAgreement | None = None
    checkpoint: str = ""
    empty: dict[str, str] = {}


def prepare(source: str, backend: str, device: str | None, threads: int | None) -> dict[str, Any]:
    """Return a `PreparedModel` as JSON values; export the model and choose the backend of "auto" first, if needed.

    Args:
        source: Bundle, graph, checkpoint, known name, or "seeded:NAME".
        backend: As for `samedge.load`.
        device: As for `samedge.load`.
        threads: As for `samedge.load`.

    Raises:
        SamedgeError: The source cannot be read or exported.
    """
    if Path(source).suffix.lower() in GRAPH_SUFFIXES:
        model = _graph(Path(source))
    elif is_bundle(source):
        model = _bundle(source, "")
    else:
        model = _bundle(str(cached_bundle(source)), source)
    if model.family == "sam":
        # "auto" measures its candidates once and stores the choice: here, not in the process whose memory counts.
        load(model.artefact, backend, device, threads=threads, force=True).close()
    described: dict[str, Any] = msgspec.to_builtins(model)
    return described


def _bundle(path: str, checkpoint: str) -> PreparedModel:
    manifest = open_bundle(path, force=True).manifest
    main = manifest.graph("encoder" if manifest.yolo is None else "yolo")
    return PreparedModel(
        family=_family(manifest),
        architecture=manifest.model.name,
        artefact=path,
        image_size=manifest.input.image_size,
        size_bytes=sum(file.size for graph in manifest.graphs for file in graph.files),
        parameters=manifest.model.parameters,
        gflops=manifest.model.encoder_gflops,
        prompt_gflops=manifest.model.decoder_gflops if manifest.yolo is None else None,
        precision=main.precision,
        seeded=manifest.model.seeded,
        verdict=manifest.parity.verdict,
        recorded=_recorded(manifest),
        checkpoint=checkpoint,
    )


def _family(manifest: Manifest) -> Family:
    if manifest.yolo is None:
        return "sam"
    return "fastsam" if FAST_SAM in f"{manifest.model.name} {manifest.model.checkpoint}".lower() else "yolo"


def _recorded(manifest: Manifest) -> MaskAgreement | None:
    parity = manifest.parity
    if parity.verdict == "unchecked" or (manifest.yolo is not None and manifest.yolo.task != "segment"):
        return None
    what = "probe set" if manifest.yolo is None else _ANCHORS
    return MaskAgreement(parity.mask_iou_min, parity.mask_iou_mean, f"{what}, {parity.backend}, at the export")


def _graph(path: Path) -> PreparedModel:
    """Describe a YOLO or FastSAM graph without a bundle from its own metadata."""
    metadata = read_onnx_metadata(path) if path.suffix.lower() == ".onnx" else {}
    verdict, recorded = _graph_parity(metadata)
    return PreparedModel(
        family="fastsam" if FAST_SAM in f"{path} {metadata.get('description', '')}".lower() else "yolo",
        architecture=metadata.get("description", "").partition(",")[0].lower(),
        artefact=str(path),
        image_size=_side(metadata),
        size_bytes=path.stat().st_size,
        seeded=metadata.get("seeded") == "True",
        verdict=verdict,
        recorded=recorded,
        empty=dict.fromkeys(("params", "gflops"), _GRAPH_ALONE),
    )


def _side(metadata: dict[str, str]) -> int:
    try:
        sides = json.loads(metadata.get("imgsz", ""))
    except ValueError:
        return DEFAULT_IMAGE_SIZE[0]
    return int(max(sides)) if isinstance(sides, list) and sides else DEFAULT_IMAGE_SIZE[0]


def _graph_parity(metadata: dict[str, str]) -> tuple[Verdict, MaskAgreement | None]:
    try:
        record = json.loads(metadata.get(PARITY, "{}"))
    except ValueError:
        record = {}
    verdict = record.get("verdict") if isinstance(record, dict) else None
    if verdict not in ("passed", "failed"):
        return "unchecked", None
    worst = record.get("mask_iou_min")
    agreement = (
        MaskAgreement(float(worst), None, f"{_ANCHORS}, at the export") if isinstance(worst, (int, float)) else None
    )
    return cast("Verdict", verdict), agreement
