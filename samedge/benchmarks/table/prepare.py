"""From a source to what runs: exported into the cache if need be, and described. Called in a child process.

That process may import torch; those that are timed do not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from samedge.api import is_bundle
from samedge.benchmarks.table.records import Family, MaskAgreement
from samedge.errors import missing_extra
from samedge.export.cached import cached_bundle, import_exporter
from samedge.models.weights import SEEDED, find_checkpoint
from samedge.runtime.bundle import open_bundle
from samedge.runtime.load import load
from samedge.runtime.manifest import Manifest
from samedge.runtime.onnx_metadata import read_onnx_metadata
from samedge.runtime.yolo_graph import DEFAULT_IMAGE_SIZE, PARITY
from samedge.types import Verdict
from samedge.yolo import GRAPH_SUFFIXES

FAST_SAM: Final = "fastsam"
_GRAPH_ALONE: Final = "a graph file alone does not tell it"


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be measured.

    Attributes:
        family: "sam", "fastsam" or "yolo".
        architecture: Such as "sam_vit_b" or "yolov8n-seg".
        artefact: Path of the bundle or graph.
        image_size: Side of the input, px.
        size_bytes: Bytes of its files.
        parameters: None where nothing tells them.
        gflops: Of the encoder, or the whole network, on one picture.
        prompt_gflops: Of one prompt.
        precision: Of the encoder.
        seeded: The weights are random.
        verdict: Of the export.
        recorded: Agreement of masks as the export found it; None where it did not look.
        checkpoint: What to compare with in torch; empty for a bundle or graph.
        empty: Why something is not known, by column.
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


def prepare(source: str, backend: str, device: str | None, threads: int | None, count: bool) -> dict[str, Any]:
    """Returns a `Prepared`, as JSON: exports what is not exported yet, and chooses the backend that "auto" means.

    Args:
        source: Bundle, graph, checkpoint, known name, or "seeded:NAME".
        backend: As for `samedge.load`.
        device: As for `samedge.load`.
        threads: As for `samedge.load`.
        count: Count floating point operations, where no manifest has them.

    Raises:
        SamedgeError: It cannot be read or exported.
    """
    if Path(source).suffix.lower() in GRAPH_SUFFIXES:
        found = _graph(Path(source), source, "")
    elif is_bundle(source):
        found = _bundle(source, "")
    elif _is_yolo(source):
        found = _yolo(source, count=count)
    else:
        found = _bundle(str(cached_bundle(source)), source)
    if found.family == "sam":
        # "auto" measures once and keeps what it found: here, and not in the process whose memory counts.
        load(found.artefact, backend, device, threads=threads, force=True).close()
    described: dict[str, Any] = msgspec.to_builtins(found)
    return described


def _is_yolo(source: str) -> bool:
    if source.startswith(SEEDED):
        return source.removeprefix(SEEDED).lower().startswith(("yolo", FAST_SAM))
    import_exporter()  # a sentence where torch is missing
    from samedge.models.checkpoint import read_checkpoint
    from samedge.models.yolo_load import is_yolo

    return is_yolo(read_checkpoint(find_checkpoint(source)))


def _bundle(path: str, checkpoint: str) -> Prepared:
    opened = open_bundle(path, force=True)
    manifest = opened.manifest
    if manifest.has("yolo"):
        return _graph(opened.graph_path("yolo"), checkpoint or path, checkpoint, manifest)
    return Prepared(
        family="sam",
        architecture=manifest.model.name,
        artefact=path,
        image_size=manifest.input.image_size,
        size_bytes=sum(file.size for file in manifest.files),
        precision=manifest.graph("encoder").precision,
        verdict=manifest.parity.verdict,
        recorded=_recorded(manifest),
        checkpoint=checkpoint,
        **_model_numbers(manifest),
    )


def _model_numbers(manifest: Manifest) -> dict[str, Any]:
    model = manifest.model
    return {
        "parameters": model.parameters,
        "gflops": model.encoder_gflops,
        "prompt_gflops": model.decoder_gflops,
        "seeded": model.seeded,
    }


def _recorded(manifest: Manifest) -> MaskAgreement | None:
    parity = manifest.parity
    if parity.verdict == "unchecked":
        return None
    judged = f"probe set, {parity.backend}, at the export"
    return MaskAgreement(parity.mask_iou_min, parity.mask_iou_mean, judged)


def _yolo(source: str, *, count: bool) -> Prepared:
    try:
        from samedge.export.describe import count_yolo_gflops
        from samedge.export.yolo_export import cached_yolo
        from samedge.models.yolo_load import load_yolo
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "export,cpu", "Exporting a checkpoint") from error
    path = Path(cached_yolo(source))
    if path.suffix.lower() not in GRAPH_SUFFIXES:
        return _bundle(str(path), source)
    graph = _graph(path, source, source)
    loaded = load_yolo(source)
    return msgspec.structs.replace(
        graph,
        architecture=source.removeprefix(SEEDED).lower() if loaded.seeded else graph.architecture or loaded.name,
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        gflops=count_yolo_gflops(loaded.model, graph.image_size) if count else None,
        empty={},
    )


def _graph(path: Path, source: str, checkpoint: str, manifest: Manifest | None = None) -> Prepared:
    """A YOLO or FastSAM: its file says what it is, and a manifest, where there is one, says more."""
    metadata = read_onnx_metadata(path) if path.suffix.lower() == ".onnx" else {}
    said = f"{source} {metadata.get('description', '')} {manifest.model.name if manifest else ''}".lower()
    verdict, recorded = _yolo_parity(metadata, manifest)
    names = metadata.get("description", "").partition(",")[0].lower()
    return Prepared(
        family="fastsam" if FAST_SAM in said else "yolo",
        architecture=manifest.model.name if manifest else names,
        artefact=str(path),
        image_size=_side(metadata, manifest),
        size_bytes=path.stat().st_size,
        verdict=verdict,
        recorded=recorded,
        checkpoint=checkpoint,
        **(
            _model_numbers(manifest)
            if manifest
            else {
                "seeded": metadata.get("seeded") == "True",
                "empty": dict.fromkeys(("params", "gflops"), _GRAPH_ALONE),
            }
        ),
    )


def _side(metadata: dict[str, str], manifest: Manifest | None) -> int:
    if manifest is not None:
        return manifest.input.image_size
    try:
        sides = json.loads(metadata.get("imgsz", ""))
    except ValueError:
        return DEFAULT_IMAGE_SIZE[0]
    return int(max(sides)) if isinstance(sides, list) and sides else DEFAULT_IMAGE_SIZE[0]


def _yolo_parity(metadata: dict[str, str], manifest: Manifest | None) -> tuple[Verdict, MaskAgreement | None]:
    if manifest is not None and manifest.parity.verdict != "unchecked":
        return manifest.parity.verdict, _recorded(manifest)
    try:
        record = json.loads(metadata.get(PARITY, "{}"))
    except ValueError:
        record = {}
    verdict = record.get("verdict") if isinstance(record, dict) else None
    if verdict not in ("passed", "failed"):
        return "unchecked", None
    worst = record.get("mask_iou_min")
    judged = "probe set, the 20 best anchors, at the export"
    agreement = MaskAgreement(float(worst), None, judged) if isinstance(worst, (int, float)) else None
    return cast("Verdict", verdict), agreement
